# For operators who use `token-worker keys` with the master key, or all keys, in Vault. Not for workers: they only read.
#
#   vault policy write token-worker-key-admin key-admin.hcl
#
# Change the paths if TOKEN_WORKER_VAULT_SECRET or TOKEN_WORKER_KEYS_FOLDER are others. KV version 2 only: version 1 has
# no check-and-set.

# `keys rewrap --new-master-key` writes a new master key; every command reads it, and the version before it.
path "secret/data/acra/transport" {
  capabilities = ["read", "update"]
}

# `keys drop-previous` deletes the versions of the secret that hold a replaced master key.
path "secret/delete/acra/transport" {
  capabilities = ["update"]
}

# The rest is for TOKEN_WORKER_KEYS_SOURCE=vault. Generate, rotate, rewrap:
path "secret/data/.acrakeys/*" {
  capabilities = ["create", "read", "update"]
}

# List; and delete what `keys destroy` has moved aside.
path "secret/metadata/.acrakeys/*" {
  capabilities = ["list", "delete"]
}

# The index keys of the dense layout: generate, index, rewrap, list, destroy.
path "secret/data/.acrakeys.index/*" {
  capabilities = ["create", "read", "update"]
}

path "secret/metadata/.acrakeys.index/*" {
  capabilities = ["list", "delete"]
}

# The record of the layout: `tokens layout` and `tokens migrate` write it, other commands read it.
path "secret/data/.acrakeys.layout" {
  capabilities = ["create", "read", "update"]
}

# Where `keys destroy` moves keys to, and keeps its records.
path "secret/data/.acrakeys.retired/*" {
  capabilities = ["create", "read", "update"]
}

path "secret/metadata/.acrakeys.retired/*" {
  capabilities = ["list", "delete"]
}

path "secret/data/.acrakeys.scans/*" {
  capabilities = ["create", "read", "update"]
}

path "secret/metadata/.acrakeys.scans/*" {
  capabilities = ["delete"]
}

# The token itself, as in master-key-only.hcl.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
