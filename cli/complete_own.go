package cli

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/completions"
	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/machine/policy"
)

// completeOwn completes stile's own command line. Where the word belongs to a
// guest's command, as in `stile run git che`, it returns the words of that one and
// its distro instead. A nil Reply has the shell complete file names.
func (a *app) completeOwn(words []completions.Word) ([]completions.Word, *distro.Distro, *completions.Reply) {
	cur := words[len(words)-1].Text
	if len(words) == 2 {
		return nil, nil, pick(cur, commandCandidates(strings.HasPrefix(cur, "-")))
	}
	c := findCommand(words[1].Text)
	if c == nil {
		return nil, nil, pick(cur, nil)
	}
	flags := c.flagSet()
	var operands []string
	distroName, wanting, literal := "", (*pflag.Flag)(nil), false
	for i, w := range words[2 : len(words)-1] {
		text := w.Text
		switch {
		case wanting != nil:
			if wanting.Name == "distro" {
				distroName = text
			}
			wanting = nil
		case literal || text == "-" || !strings.HasPrefix(text, "-"):
			operands = append(operands, text)
			if c.operands {
				// From here on it is the guest's command line.
				d, err := a.here(distroName)
				if err != nil {
					return nil, nil, pick(cur, nil)
				}
				return words[2+i:], d, nil
			}
		case text == "--":
			literal = true
		default:
			f, value, given := findFlag(flags, text)
			if f != nil && f.Name == "distro" {
				distroName = value
			}
			if f != nil && !given && f.NoOptDefVal == "" {
				wanting = f
			}
		}
	}
	switch {
	case wanting != nil:
		return nil, nil, a.flagValues(wanting, cur, "", distroName)
	case !literal && strings.HasPrefix(cur, "-"):
		if name, value, ok := strings.Cut(cur, "="); ok {
			if f, _, _ := findFlag(flags, name); f != nil {
				return nil, nil, a.flagValues(f, value, name+"=", distroName)
			}
			return nil, nil, pick(cur, nil)
		}
		return nil, nil, pick(cur, flagCandidates(flags))
	}
	return nil, nil, a.operandValues(c, operands, cur, distroName)
}

// findFlag finds the flag of an argument: --name, --name=value, -n, -nvalue. given
// is whether the argument has the value.
func findFlag(flags *pflag.FlagSet, arg string) (f *pflag.Flag, value string, given bool) {
	if name, ok := strings.CutPrefix(arg, "--"); ok {
		name, value, given = strings.Cut(name, "=")
		return flags.Lookup(name), value, given
	}
	if len(arg) < 2 {
		return nil, "", false
	}
	f = flags.ShorthandLookup(arg[1:2])
	return f, strings.TrimPrefix(arg[2:], "="), len(arg) > 2
}

// pick makes a reply of those that begin with cur.
func pick(cur string, list []completions.Candidate) *completions.Reply {
	r := &completions.Reply{}
	for _, c := range list {
		if strings.HasPrefix(c.Text, cur) {
			if c.Part == "" {
				c.Part = c.Text
			}
			r.Candidates = append(r.Candidates, c)
		}
	}
	return r
}

func commandCandidates(flags bool) (list []completions.Candidate) {
	if flags {
		return []completions.Candidate{{Text: "--help", Desc: "List the commands"}, {Text: "--version", Desc: newVersionCommand().short}}
	}
	for _, c := range commands() {
		if !c.hidden {
			list = append(list, completions.Candidate{Text: c.name, Desc: c.short})
		}
	}
	return list
}

func flagCandidates(flags *pflag.FlagSet) (list []completions.Candidate) {
	flags.VisitAll(func(f *pflag.Flag) {
		_, usage := pflag.UnquoteUsage(f)
		list = append(list, completions.Candidate{Text: "--" + f.Name, Desc: usage})
		if f.Shorthand != "" {
			list = append(list, completions.Candidate{Text: "-" + f.Shorthand, Desc: usage})
		}
	})
	return append(list, completions.Candidate{Text: "--help", Desc: "Tell what the command does"})
}

// flagValues are the values of a flag; before is what comes before the value in
// the same word. bash replaces what is after the =, the others the whole word.
func (a *app) flagValues(f *pflag.Flag, cur, before, distroName string) *completions.Reply {
	var list []completions.Candidate
	switch f.Name {
	case "distro":
		list = a.distroCandidates()
	case "user":
		list = []completions.Candidate{{Text: "root"}}
	case "from":
		return nil
	}
	r := pick(cur, list)
	for i := range r.Candidates {
		r.Candidates[i].Part = r.Candidates[i].Text
		r.Candidates[i].Text = before + r.Candidates[i].Text
	}
	return r
}

func (a *app) distroCandidates() (list []completions.Candidate) {
	distros, err := a.store.List()
	if err != nil {
		return nil
	}
	for _, d := range distros {
		list = append(list, completions.Candidate{Text: d.Name, Desc: d.Info.Source})
	}
	return list
}

func (a *app) linkCandidates() (list []completions.Candidate) {
	links, err := a.store.Links()
	if err != nil {
		return nil
	}
	for _, l := range links {
		list = append(list, completions.Candidate{Text: l.Name, Desc: strings.Join(append([]string{l.Command()}, l.Record.Args...), " ") + " of " + l.Record.Distro})
	}
	return list
}

// guestCandidates are the commands that the distro had when it was asked last.
func (a *app) guestCandidates(name string) (list []completions.Candidate) {
	d, err := a.here(name)
	if err != nil {
		return nil
	}
	names, err := a.store.Commands(d)
	if err != nil {
		return nil
	}
	for _, n := range names {
		list = append(list, completions.Candidate{Text: n})
	}
	slices.SortFunc(list, func(a, b completions.Candidate) int { return strings.Compare(a.Text, b.Text) })
	return list
}

// operandValues are what a command takes besides flags, after the operands that
// are there.
func (a *app) operandValues(c *command, operands []string, cur, distroName string) *completions.Reply {
	if c.max >= 0 && len(operands) >= c.max {
		return pick(cur, nil)
	}
	var list []completions.Candidate
	switch c.name {
	case "start", "stop", "status", "logs", "remove", "default":
		list = a.distroCandidates()
	case "unlink", "which":
		list = a.linkCandidates()
	case "link", "run":
		list = a.guestCandidates(distroName)
	case "help":
		list = append(commandCandidates(false), completions.Candidate{Text: "config", Desc: "The settings in config.toml"})
	case "init":
		for _, s := range shells {
			list = append(list, completions.Candidate{Text: s})
		}
	case "install":
		list = []completions.Candidate{{Text: "debian", Desc: "the release that this host runs, else stable"}}
	case "import":
		if len(operands) == 1 {
			return nil
		}
	case "host":
		if len(operands) == 0 {
			list = hostVerbs
			break
		}
		switch operands[0] {
		case "allow", "ask", "deny", "link":
			return nil
		}
		list = a.hostCandidates(operands[0])
	case "share", "unshare", "trust", "untrust", "testscript", "explain":
		return nil
	}
	// A name that is there already is not wanted a second time.
	list = slices.DeleteFunc(list, func(c completions.Candidate) bool { return slices.Contains(operands, c.Text) })
	return pick(cur, list)
}

var hostVerbs = []completions.Candidate{
	{Text: "allow", Desc: "guests may run a command of this host"}, {Text: "ask", Desc: "you are asked each time"},
	{Text: "deny", Desc: "they may not"}, {Text: "forget", Desc: "take back all rules for a command"},
	{Text: "list", Desc: "the rules"}, {Text: "log", Desc: "what guests asked for"},
	{Text: "link", Desc: "a host command's name in guests"}, {Text: "unlink", Desc: "take such a name away"},
	{Text: "links", Desc: "list them"},
}

// hostCandidates are the names that there are rules or links for.
func (a *app) hostCandidates(verb string) (list []completions.Candidate) {
	p, err := policy.Load(a.store.Dirs.HostPath())
	if err != nil {
		return nil
	}
	switch verb {
	case "forget":
		for _, r := range p.Rules {
			list = append(list, completions.Candidate{Text: r.Name(), Desc: ruleText(&r)})
		}
	case "unlink":
		for _, l := range p.Links {
			list = append(list, completions.Candidate{Text: l.Name})
		}
	}
	return list
}
