package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Load reads args and environ (as os.Environ returns it). Flags that fs has already are parsed along. The error
// is flag.ErrHelp where help was asked for, else it has one line for everything that is wrong.
func Load(fs *flag.FlagSet, args, environ []string, choices Choices) (Config, error) {
	var c Config
	bad, errs := metald().read(reflect.ValueOf(&c).Elem(), Fields(choices), fs, args, environ, choices)
	if len(errs) > 0 && errors.Is(errs[0], flag.ErrHelp) {
		return Config{}, flag.ErrHelp
	}
	errs = append(errs, c.complete(bad)...)
	return c, errors.Join(errs...)
}

// read fills in a struct from its defaults, the environment and the flags. It returns the names of fields whose values
// cannot be used, and everything that is wrong; flag.ErrHelp alone where help was asked for.
func (p program) read(into reflect.Value, fields []Field, fs *flag.FlagSet, args, environ []string, choices Choices) (map[string]bool, []error) {
	given := map[string]string{}
	for _, f := range fields {
		fs.Var(&rawFlag{f, given}, f.Name, f.Doc)
	}
	errs := p.parseArgs(fs, args)
	if len(errs) > 0 && errors.Is(errs[0], flag.ErrHelp) {
		return nil, errs
	}

	env := p.variables(environ)
	errs = append(errs, p.strayVariables(env, fields)...)
	bad := map[string]bool{}
	for _, f := range fields {
		text, from := f.Default, ""
		if t, ok := env[f.Env]; ok {
			text, from = t, f.Env
		}
		if t, ok := given[f.Name]; ok {
			text, from = t, "-"+f.Name+" ("+f.Env+")"
		}
		if err := decode(f, text, into.Field(f.index)); err != nil {
			if from == "" {
				panic(fmt.Sprintf("config: the default of %s: %v", f.Name, err))
			}
			errs = append(errs, fmt.Errorf("%s: %w", from, hideSecret(f, err)))
			bad[f.Name] = true
		}
	}
	return bad, errs
}

// parseArgs parses what it can and returns everything that is wrong with the rest. Package flag stops at each fault
// and is sent on behind it.
func (p program) parseArgs(fs *flag.FlagSet, args []string) []error {
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	var errs []error
	for {
		given := len(args)
		err := fs.Parse(args)
		args = fs.Args()
		switch {
		case errors.Is(err, flag.ErrHelp):
			return []error{err}
		case err != nil:
			errs = append(errs, p.suggestFlag(fs, err))
			if len(args) == given || len(args) > 0 && !strings.HasPrefix(args[0], "-") {
				args = args[1:] // what is no flag at all, or most likely the value of an unknown one
			}
		case len(args) > 0:
			errs = append(errs, fmt.Errorf("unexpected argument %q; settings are flags, see -help", args[0]))
			args = args[1:]
		default:
			return errs
		}
	}
}

// suggestFlag turns package flag's words for an unknown flag into ours.
func (p program) suggestFlag(fs *flag.FlagSet, err error) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return err
	}
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return fmt.Errorf("-%s: %s", name, p.whyUnknown(name, names, func(n string) string { return "-" + n }))
}

func hideSecret(f Field, err error) error {
	if f.Secret {
		return errors.New("the value, which is not shown, cannot be used")
	}
	return err
}

// rawFlag keeps a flag's text; decoding waits until every source is known.
type rawFlag struct {
	field Field
	given map[string]string
}

func (r *rawFlag) Set(text string) error {
	r.given[r.field.Name] = text
	return nil
}

// String is what package flag prints as the default.
func (r *rawFlag) String() string { return r.field.Default }

// IsBoolFlag lets -name stand for -name=true.
func (r *rawFlag) IsBoolFlag() bool { return r.field.Type == "bool" }
