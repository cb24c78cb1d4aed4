package daemon

import (
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"
)

// printHelp writes every flag under its group, with value, default and
// environment variable.
func (p program) printHelp(flags *Flags) {
	fmt.Fprintf(p.stdout, "%s: %s\n\nUsage: %s [flags]\n\n", p.name, p.summary, p.name)
	fmt.Fprintf(p.stdout, "Every flag can be set in the environment as %s, or in the file given by --config.\n",
		variableName(p.name, "flag-name"))
	var groups []string
	members := make(map[string][]*setting)
	for _, s := range flags.settings {
		if members[s.group] == nil {
			groups = append(groups, s.group)
		}
		members[s.group] = append(members[s.group], s)
	}
	for _, group := range groups {
		fmt.Fprintf(p.stdout, "\n%s:\n", group)
		table := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
		for _, s := range members[group] {
			fmt.Fprintf(table, "  %s\t%s\n", s.synopsis(), s.description())
		}
		_ = table.Flush() // as good as it gets: standard output is gone
	}
}

func (s *setting) synopsis() string {
	if s.isSwitch() {
		return "--" + s.Name
	}
	name, _ := flag.UnquoteUsage(s.Flag)
	if kind, ok := s.Value.(interface{ placeholder() string }); ok && name == "value" {
		name = kind.placeholder()
	}
	return "--" + s.Name + " " + strings.ToUpper(name)
}

func (s *setting) description() string {
	_, usage := flag.UnquoteUsage(s.Flag)
	if s.DefValue == "" || s.DefValue == "false" {
		return usage
	}
	return fmt.Sprintf("%s (default %s)", usage, s.DefValue)
}
