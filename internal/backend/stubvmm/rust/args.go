package rust

import (
	"fmt"
	"slices"
	"strings"
)

// Arg is an argument that a program knows, by its name without the hyphens.
type Arg struct {
	Name     string
	Value    bool // it has one
	Multiple bool // it may come again
	Required bool
	Default  string
	Requires string // another argument
	Forbids  string // another argument
}

// Args are the arguments that were given.
type Args struct {
	Help, Version bool     // asked for; then nothing else is read
	Extra         []string // behind "--"

	known  []Arg
	values map[string][]string
}

// ArgError is a command line that is refused.
type ArgError struct {
	Kind string // as Rust names it
	Of   []string
	text string
}

func (e *ArgError) Error() string { return e.text }

// Debug is how Rust prints the error for a programmer.
func (e *ArgError) Debug() string {
	quoted := make([]string, len(e.Of))
	for i, s := range e.Of {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return e.Kind + "(" + strings.Join(quoted, ", ") + ")"
}

func argError(kind, format string, of ...string) *ArgError {
	words := make([]any, len(of))
	for i, s := range of {
		words[i] = s
	}
	return &ArgError{Kind: kind, Of: of, text: fmt.Sprintf(format, words...)}
}

func unexpected(name string) *ArgError {
	return argError("UnexpectedArgument", "Found argument '%s' which wasn't expected, or isn't valid in this context.", name)
}

func missing(name string) *ArgError {
	return argError("MissingArgument", "Argument '%s' required, but not found.", name)
}

// ParseArgs reads a command line without the program's name.
func ParseArgs(known []Arg, args []string) (*Args, *ArgError) {
	a := &Args{known: slices.Clone(known), values: map[string][]string{}}
	slices.SortFunc(a.known, func(x, y Arg) int { return strings.Compare(x.Name, y.Name) })
	if i := slices.Index(args, "--"); i >= 0 {
		a.Extra, args = args[i+1:], args[:i]
	}
	switch {
	case slices.Contains(args, "--help"), slices.Contains(args, "-h"):
		a.Help = true
		return a, nil
	case slices.Contains(args, "--version"):
		a.Version = true
		return a, nil
	}
	for len(args) > 0 {
		var err *ArgError
		if args, err = a.take(args); err != nil {
			return nil, err
		}
	}
	return a, a.check()
}

// take reads one argument with its value.
func (a *Args) take(args []string) ([]string, *ArgError) {
	name, ok := strings.CutPrefix(args[0], "--")
	if !ok {
		return nil, unexpected(args[0])
	}
	i := slices.IndexFunc(a.known, func(k Arg) bool { return k.Name == name })
	if i < 0 {
		return nil, unexpected(name)
	}
	if a.Has(name) && !a.known[i].Multiple {
		return nil, argError("DuplicateArgument", "The argument '%s' was provided more than once.", name)
	}
	if !a.known[i].Value {
		a.values[name] = []string{""}
		return args[1:], nil
	}
	if len(args) < 2 || strings.HasPrefix(args[1], "--") {
		return nil, argError("MissingValue", "The argument '%s' requires a value, but none was supplied.", name)
	}
	a.values[name] = append(a.values[name], args[1])
	return args[2:], nil
}

func (a *Args) check() *ArgError {
	for _, k := range a.known {
		switch given := a.Has(k.Name); {
		case k.Required && !given:
			return missing(k.Name)
		case given && k.Requires != "" && !a.Has(k.Requires):
			return missing(k.Requires)
		case given && k.Forbids != "" && a.Has(k.Forbids):
			return argError("ForbiddenArgument", "Argument '%[2]s' cannot be used together with argument '%[1]s'.", k.Name, k.Forbids)
		}
	}
	return nil
}

// Has says whether an argument was given.
func (a *Args) Has(name string) bool { return a.values[name] != nil }

// Get is the value of an argument, or its default.
func (a *Args) Get(name string) string {
	if v := a.values[name]; v != nil {
		return v[0]
	}
	for _, k := range a.known {
		if k.Name == name {
			return k.Default
		}
	}
	return ""
}

// All are the values of an argument that may come more than once.
func (a *Args) All(name string) []string { return a.values[name] }
