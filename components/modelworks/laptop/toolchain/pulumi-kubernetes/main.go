// Pulumi's provider of Kubernetes. Its own main embeds two files that its published module leaves out under these names.
package main

import (
	_ "embed"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"
)

//go:embed schema.json
var schema []byte

//go:embed terraform-mapping.json
var mapping []byte

// Stamped by the linker.
var version = "0.0.0"

func main() {
	provider.Serve("kubernetes", version, schema, mapping)
}
