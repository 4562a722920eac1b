// Package kernelargs reads a Linux kernel's command line the way Linux does, to find out what the client already said.
package kernelargs

import (
	"strings"
	"unicode"
)

// Names returns the names of the arguments that are for the kernel: those before a "--", each without its value.
func Names(line string) map[string]bool {
	names := map[string]bool{}
	for _, word := range split(line) {
		if word == "--" {
			break
		}
		name, _, _ := strings.Cut(word, "=")
		names[strings.Trim(name, `"`)] = true
	}
	return names
}

// split splits as Linux does (lib/cmdline.c, next_arg): at white space that doesn't stand between double quotes.
// Nothing escapes a quote.
func split(line string) []string {
	quoted := false
	return strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && unicode.IsSpace(r)
	})
}
