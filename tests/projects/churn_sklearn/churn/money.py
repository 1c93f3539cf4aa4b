def euros(cents):
    return cents / 100
