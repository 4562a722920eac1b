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

// Without returns line without the arguments for the kernel that are exactly word, each with the white space behind it.
// The rest stays as it was written.
func Without(line, word string) string {
	var kept strings.Builder
	for rest := line; rest != ""; {
		end := wordEnd(rest)
		if rest[:end] == "--" {
			kept.WriteString(rest)
			break
		}
		next := len(rest) - len(strings.TrimLeftFunc(rest[end:], unicode.IsSpace))
		if rest[:end] != word {
			kept.WriteString(rest[:next])
		}
		rest = rest[next:]
	}
	return kept.String()
}

// wordEnd is the length of the word that text begins with, by the rule of split.
func wordEnd(text string) int {
	quoted := false
	end := strings.IndexFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && unicode.IsSpace(r)
	})
	if end < 0 {
		return len(text)
	}
	return end
}
