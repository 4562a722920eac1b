// Package docgen makes the parts of the documentation that repeat what the code says. A part stands in a Markdown file
// between two comments and is rewritten by `make docs`; a test fails where it is stale.
//
//	<!-- generated: config-table -->
//	…
//	<!-- /generated -->
package docgen

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/api"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/gauges"
)

// EnvFile is the path of the one file that is made as a whole, from the root of the tree.
const EnvFile = "contrib/systemd/metald.env.example"

// Choices is what this build contributes to the settings.
func Choices() config.Choices {
	return config.Choices{Backends: backend.Names()}
}

// Regions returns the text of every part by its name.
func Regions() map[string]string {
	return map[string]string{
		"config-table":    config.Table(Choices()),
		"billaged-table":  config.BillagedTable(),
		"metering-gauges": gauges.Table(),
		"backend-matrix":  backendMatrix(backend.All()),
		"transitions":     transitions(),
		"error-codes":     api.ErrorCodesTable(),
		"conformance":     conformanceTable(),
	}
}

// measured names the parts that others make, because they are measured and not known from code: `make bench`.
func measured() []string { return []string{"bench"} }

// Envfile returns the text of EnvFile.
func Envfile() string { return config.EnvFile(Choices()) }

// region matches one part with its two comments.
func region() *regexp.Regexp {
	return regexp.MustCompile(`(?s)(<!-- generated: ([a-z-]+) -->\n)(.*?)(<!-- /generated -->)`)
}

// Rewrite returns text with every part as it should be. A part that nobody makes, and a comment without its
// partner, are errors.
func Rewrite(text string, regions map[string]string) (string, error) {
	pattern := region()
	begins, ends := strings.Count(text, "<!-- generated:"), strings.Count(text, "<!-- /generated -->")
	if found := len(pattern.FindAllString(text, -1)); found != begins || found != ends {
		return "", fmt.Errorf("%d parts begin and %d end; each needs `<!-- generated: name -->` and `<!-- /generated -->` on lines of their own", begins, ends)
	}
	var unknown []string
	out := pattern.ReplaceAllStringFunc(text, func(part string) string {
		m := pattern.FindStringSubmatch(part)
		if slices.Contains(measured(), m[2]) {
			return part
		}
		body, ok := regions[m[2]]
		if !ok {
			unknown = append(unknown, m[2])
		}
		return m[1] + "\n" + strings.TrimSpace(body) + "\n\n" + m[4]
	})
	if unknown != nil {
		return "", fmt.Errorf("nobody makes the parts %s", strings.Join(unknown, ", "))
	}
	return out, nil
}
