"""The rights of callers of the strict laptop's AWS accounts: IAM policies, evaluated as AWS documents it.

`conditions` and `evaluation` are the rules, pure; `actions` and `storage` read a request; `policies` finds the
documents in moto; `enforcement` refuses.
"""
