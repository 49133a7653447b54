# For workers with TOKEN_WORKER_KEYS_SOURCE=vault: the master key and every other key, read only. A worker never writes
# a key; who generates or rotates keys needs a policy of their own.
#
#   vault policy write token-worker-all-keys all-keys.hcl
#
# Change the paths if TOKEN_WORKER_VAULT_SECRET or TOKEN_WORKER_KEYS_FOLDER are others. The lines are for KV version 2;
# on a mount of version 1 leave out data/ and metadata/, and give the folder both `read` and `list`.

path "secret/data/acra/transport" {
  capabilities = ["read"]
}

# A key is <folder>/<name>; the keys it replaced are <folder>/<name>.old/<time>. Both are sealed by the master key.
path "secret/data/.acrakeys/*" {
  capabilities = ["read"]
}

# The record of the layout of the token storage. Most set-ups in Acra's layout have none; the right to look is needed.
path "secret/data/.acrakeys.layout" {
  capabilities = ["read"]
}

# With the dense layout: the index keys, <folder>.index/<name>.
path "secret/data/.acrakeys.index/*" {
  capabilities = ["read"]
}

# The times of replaced keys cannot be guessed, so they are listed. This shows names, not keys.
path "secret/metadata/.acrakeys/*" {
  capabilities = ["list"]
}

# The token itself, as in master-key-only.hcl.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
