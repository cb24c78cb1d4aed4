package daemon

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// Flags is where a configuration declares its settings. Each is a flag, an
// environment variable and a key of the configuration file at once. A setting
// not given keeps the value its variable had when it was declared. Declaring
// a name twice panics, as with package flag.
type Flags struct {
	set      *flag.FlagSet
	settings []*setting // in order of declaration
	group    string

	inherited   []Inherited
	oldPrefixes []string
	notices     []string // of variables without effect
}

// setting is one declared flag and where it belongs in the help.
type setting struct {
	*flag.Flag
	group string
}

func newFlags(name string) *Flags {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return &Flags{set: set}
}

// Group puts the settings declared from here on under a title of the help.
func (f *Flags) Group(title string) { f.group = title }

// Var declares a setting of any type. Its Set must leave the value as it was
// when it returns an error. A word of usage in back quotes names the value in
// the help.
func (f *Flags) Var(value flag.Value, name, usage string) {
	f.set.Var(value, name, usage)
	f.settings = append(f.settings, &setting{f.set.Lookup(name), f.group})
}

// String declares a setting that takes any text.
func (f *Flags) String(p *string, name, usage string) {
	f.Var(&value[string]{p, "text", func(s string) (string, error) { return s, nil }, func(s string) string { return s }}, name, usage)
}

// Strings declares a setting that may be given again and again: as a repeated
// flag, a list in the file, or separated by commas in the environment.
func (f *Flags) Strings(p *[]string, name, usage string) { f.Var(&list{into: p}, name, usage) }

// Int declares a whole number.
func (f *Flags) Int(p *int, name, usage string) {
	f.Var(&value[int]{p, "number", parseInt, func(n int) string { return fmt.Sprint(n) }}, name, usage)
}

// Bytes declares a size in bytes, given as ParseBytes reads it.
func (f *Flags) Bytes(p *int64, name, usage string) {
	f.Var(&value[int64]{p, "bytes", ParseBytes, FormatBytes}, name, usage)
}

// Duration declares a duration such as 1m30s.
func (f *Flags) Duration(p *time.Duration, name, usage string) {
	f.Var(&value[time.Duration]{p, "duration", parseDuration, formatDuration}, name, usage)
}

// Bool declares a switch; the flag without a value turns it on.
func (f *Flags) Bool(p *bool, name, usage string) {
	f.Var(&boolValue{value[bool]{p, "", parseBool, func(b bool) string { return fmt.Sprint(b) }}}, name, usage)
}

func (f *Flags) lookup(name string) *setting {
	for _, s := range f.settings {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// isSwitch tells whether the flag takes no value of its own.
func (s *setting) isSwitch() bool {
	b, ok := s.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// variable is the name of the setting in the environment.
func (s *setting) variable(prefix string) string { return variableName(prefix, s.Name) }

func variableName(prefix, name string) string {
	return strings.ToUpper(strings.ReplaceAll(prefix+"_"+name, "-", "_"))
}
