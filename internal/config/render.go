package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

// WriteHelp prints every setting for -help.
func WriteHelp(w io.Writer, choices Choices) { writeHelp(w, Fields(choices)) }

func writeHelp(w io.Writer, fields []Field) {
	for _, f := range fields {
		fmt.Fprintf(w, "  -%s %s\n", f.Name, f.Type)
		fmt.Fprintf(w, "    \t%s\n", f.Doc)
		fmt.Fprintf(w, "    \t%s%s\n", f.Env, detail(f))
	}
}

// detail is ", default 8080, 0 to 65535" and its like; "" where there is nothing to say.
func detail(f Field) string {
	var s string
	if f.Default != "" {
		s += ", default " + f.Default
	}
	if r := f.Values(); r != "" {
		s += ", " + r
	}
	return s
}

// Values says which values a field takes, "" where its type says it all.
func (f Field) Values() string {
	switch {
	case f.Choices != nil:
		return "one of " + strings.Join(f.Choices, " ")
	case f.Min != "" && f.Max != "":
		return f.Min + " to " + f.Max
	case f.absolute:
		return "an absolute path"
	}
	return ""
}

// Table is the settings as a Markdown table for the docs.
func Table(choices Choices) string { return table(Fields(choices)) }

func table(fields []Field) string {
	var b strings.Builder
	b.WriteString("| variable | flag | type | default | what it does |\n|---|---|---|---|---|\n")
	for _, f := range fields {
		def := "empty"
		if f.Default != "" {
			def = "`" + f.Default + "`"
		}
		doc := f.Doc
		if v := f.Values(); v != "" {
			doc += " (" + v + ")"
		}
		fmt.Fprintf(&b, "| `%s` | `-%s` | %s | %s | %s |\n", f.Env, f.Name, f.Type, def, doc)
	}
	return b.String()
}

// EnvFile is an environment file for the service in which every setting is commented out with its default.
func EnvFile(choices Choices) string {
	var b strings.Builder
	b.WriteString("# Settings of metald. Each line shows a default; remove the # to change it.\n" +
		"# This file is made from internal/config by `make docs`.\n")
	for _, f := range Fields(choices) {
		fmt.Fprintf(&b, "\n# %s.\n", strings.ToUpper(f.Doc[:1])+f.Doc[1:])
		if v := f.Values(); v != "" {
			fmt.Fprintf(&b, "# Takes %s.\n", v)
		}
		fmt.Fprintf(&b, "#%s=%s\n", f.Env, f.Default)
	}
	return b.String()
}

// Environ returns c as variables that Load reads back as c, secrets included.
func (c Config) Environ() []string {
	v := reflect.ValueOf(c)
	var env []string
	for _, f := range Fields(Choices{}) {
		env = append(env, f.Env+"="+encode(v.Field(f.index)))
	}
	return env
}
