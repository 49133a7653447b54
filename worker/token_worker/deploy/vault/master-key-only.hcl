# For workers that take the master key from Vault and every other key from Redis: one secret, read only.
#
#   vault policy write token-worker master-key-only.hcl
#
# Change the path if TOKEN_WORKER_VAULT_SECRET is another one. Nothing is needed to find out the version of the KV
# engine: Vault tells it (sys/internal/ui/mounts/<mount>) to any token that has a right below the mount.

# KV version 2 keeps the secret below data/.
path "secret/data/acra/transport" {
  capabilities = ["read"]
}

# On a mount of KV version 1, this instead. (Not both: there, the path above would be another secret.)
# path "secret/acra/transport" {
#   capabilities = ["read"]
# }

# The token itself: see how long it lives, renew it, and give it back when the worker ends. Vault's policy `default`
# permits this too; with these lines the token needs no other policy (-no-default-policy).
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
