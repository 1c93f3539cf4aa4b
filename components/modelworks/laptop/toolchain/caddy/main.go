// Caddy as the laptop's gateway runs it: the standard modules, and one of our own that knows the cluster's routes.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddycmd.Main()
}
