// Go's own client as it is by default. Arguments: URL and body.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	for range 3 {
		answer, err := http.Post(os.Args[1], "application/json", strings.NewReader(os.Args[2]))
		if err != nil {
			panic(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			panic(err)
		}
		answer.Body.Close()
		fmt.Println(answer.StatusCode, string(body))
	}
}
