//go:build tools

// Package tools names the commands that this module pins; it is never compiled into anything.
package tools

import (
	_ "sigs.k8s.io/kwok/cmd/kwok"
)
