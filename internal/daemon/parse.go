package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// given is a value for a setting and where it was found.
type given struct {
	*setting
	value string
	place string
}

// sources is everything a configuration can come from.
type sources struct {
	args   []string
	prefix string
	lookup func(string) (string, bool)
}

// load sets every declared flag from the file, the environment of an old job,
// its own and the arguments, the later over the earlier, and returns all faults found.
func (f *Flags) load(from sources) []error {
	arguments, faults := f.parseArgs(from.args)
	environment := f.readEnvironment(from)
	file, fileFaults := f.readFile(last("config", environment, arguments))
	faults = append(faults, fileFaults...)
	inherited, oldFaults := f.readInherited(from, environment)
	faults = append(faults, oldFaults...)
	for _, layer := range [][]given{file, inherited, environment, arguments} {
		faults = append(faults, f.apply(layer)...)
	}
	return faults
}

func (f *Flags) apply(layer []given) []error {
	for _, s := range f.settings {
		if l, ok := s.Value.(*list); ok {
			l.begin()
		}
	}
	var faults []error
	for _, g := range layer {
		if err := g.Value.Set(g.value); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", g.place, err))
		}
	}
	return faults
}

// last finds the value of a setting that counts over the layers given.
func last(name string, layers ...[]given) string {
	var found string
	for _, layer := range layers {
		for _, g := range layer {
			if g.Name == name {
				found = g.value
			}
		}
	}
	return found
}

// parseArgs is package flag's syntax, but goes on after a fault.
func (f *Flags) parseArgs(args []string) (values []given, faults []error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, ok := strings.CutPrefix(arg, "-")
		if !ok || name == "" || name == "-" {
			faults = append(faults, fmt.Errorf("unexpected argument %q", arg))
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(name, "-"), "=")
		s := f.lookup(name)
		isSwitch := s != nil && s.isSwitch()
		if !hasValue && isSwitch {
			value, hasValue = "true", true
		}
		// An unknown flag takes the value that follows it, so that one
		// mistake is told once.
		if next := len(args) > 0 && (s != nil || !strings.HasPrefix(args[0], "-")); !hasValue && next {
			value, hasValue, args = args[0], true, args[1:]
		}
		switch {
		case s == nil:
			faults = append(faults, fmt.Errorf("--%s: unknown flag%s", name, f.suggest(name)))
		case !hasValue:
			faults = append(faults, fmt.Errorf("--%s: needs a value", name))
		default:
			values = append(values, given{s, value, "--" + name})
		}
	}
	return values, faults
}

// suggest names the declared flag that begins or ends like the unknown one.
func (f *Flags) suggest(name string) string {
	for _, s := range f.settings {
		if len(name) > 2 && (strings.HasPrefix(s.Name, name) || strings.HasSuffix(s.Name, "-"+name)) {
			return fmt.Sprintf(" (--%s?)", s.Name)
		}
	}
	return ""
}

// readEnvironment ignores variables it does not know: platforms set some of
// their own under the same prefix.
func (f *Flags) readEnvironment(from sources) []given {
	var values []given
	for _, s := range f.settings {
		name := s.variable(from.prefix)
		text, ok := from.lookup(name)
		if !ok || text == "" {
			continue
		}
		parts := []string{text}
		if _, isList := s.Value.(*list); isList {
			parts = strings.Split(text, ",")
		}
		for _, part := range parts {
			values = append(values, given{s, strings.TrimSpace(part), name})
		}
	}
	return values
}

func (f *Flags) readFile(name string) ([]given, []error) {
	if name == "" {
		return nil, nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, []error{fmt.Errorf("--config: %w", err)}
	}
	return f.parseFile(name, data)
}

// parseFile reads a YAML mapping of flag names to scalars or lists of scalars.
func (f *Flags) parseFile(name string, data []byte) (values []given, faults []error) {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil && !errors.Is(err, io.EOF) {
		return nil, []error{fmt.Errorf("%s: %w", name, err)}
	}
	if document.Kind == 0 || len(document.Content) == 0 {
		return nil, nil // empty file
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, []error{fmt.Errorf("%s: must be a mapping of flag names to values", name)}
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, node := root.Content[i], root.Content[i+1]
		place := fmt.Sprintf("%s:%d: %s", name, key.Line, key.Value)
		s := f.lookup(key.Value)
		switch {
		case s == nil || notInFile(key.Value):
			faults = append(faults, fmt.Errorf("%s: unknown key%s", place, f.suggest(key.Value)))
		case seen[key.Value]:
			faults = append(faults, fmt.Errorf("%s: given twice", place))
		default:
			found, err := nodeValues(s, node)
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", place, err))
			}
			for _, value := range found {
				values = append(values, given{s, value, place})
			}
		}
		seen[key.Value] = true
	}
	return values, faults
}

// notInFile tells the flags that make no sense in the file they would be in.
func notInFile(name string) bool { return name == "config" || name == "help" || name == "version" }

func nodeValues(s *setting, node *yaml.Node) ([]string, error) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	_, isList := s.Value.(*list)
	nodes := []*yaml.Node{node}
	if isList && node.Kind == yaml.SequenceNode {
		nodes = node.Content
	}
	var values []string
	for _, n := range nodes {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			if isList {
				return nil, errors.New("needs a value or a list of values")
			}
			return nil, errors.New("needs a single value")
		}
		values = append(values, n.Value)
	}
	return values, nil
}
