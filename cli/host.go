package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/machine"
	"github.com/stilehq/stile/machine/policy"
)

// hostFlags are those of all that `stile host` does.
type hostFlags struct {
	distro string
	args   string
	any    bool // --args was not given
	shared bool
	env    []string
	json   bool

	desktop bool
}

// desktop are the commands of a desktop that guests' programs call: to open a URL or
// a file, to tell the user something, to copy and paste.
var desktop = []string{"xdg-open", "notify-send", "wl-copy", "wl-paste", "xclip", "xsel"}

// newHostCommand is the other direction's: commands of the host that guests call.
func newHostCommand() *command {
	var o hostFlags
	var flags *pflag.FlagSet
	return &command{
		name: "host", args: "allow|ask|deny|forget|link|unlink NAME... | list | log | links [-d NAME] [--args PATTERN] [--shared] [--env NAME]... [--desktop] [--json]", min: 1, max: -1,
		short: "Say which commands of this host guests may run",
		long: `
In a guest, "host COMMAND" runs a command of this host, if a rule allows it. There
is no rule to begin with, and only this host can make one.

  stile host allow COMMAND...   guests may run it
  stile host ask COMMAND...     you are asked each time, by a dialog of the desktop
  stile host deny COMMAND...    they may not
  stile host forget COMMAND...  take back all rules for it
  stile host list               the rules
  stile host log                what guests asked for, and the answers
  stile host link NAME...       "NAME" in a guest is "host NAME"
  stile host unlink NAME...     take such a name away
  stile host link --desktop     what this host has of xdg-open, notify-send, wl-copy,
                                wl-paste, xclip and xsel; $BROWSER is xdg-open then
  stile host links              list them

COMMAND is a name or a path. The rule is for the program that is found now, and
holds as long as its path leads there. A program in a folder that guests can write,
as the home is, needs --shared.

A pattern of arguments (--args) is words with blanks between, one for each argument:
* stands for any bytes in one argument, ? for one, a backslash for the next byte as
it is, and a last word ... for any further arguments. Without a pattern, any
arguments will do. A rule with a pattern comes before one without, one of a distro
before one of all, and deny before ask before allow.

A host command runs as you, in the guest's folder where that is shared and else in
your home. Its environment is what a login has here, and of the guest's TERM,
COLORTERM, NO_COLOR and what --env names. What makes programs load or run others
never comes from the guest: docs/interop.md has the list.

Who may run a shell, an interpreter or an editor here may do all that you may.`,
		flags: func(f *pflag.FlagSet) {
			flags = f
			f.StringVarP(&o.distro, "distro", "d", "", "only for this `distro`")
			f.StringVar(&o.args, "args", "", "only with arguments like this `pattern`")
			f.BoolVar(&o.shared, "shared", false, "also where guests can write the program")
			f.StringArrayVar(&o.env, "env", nil, "a `variable` of the guest's that the command gets; may be given several times")
			f.BoolVar(&o.desktop, "desktop", false, "link the commands of this host's desktop")
			jsonFlag(f, &o.json)
		},
		run: func(ctx context.Context, app *app, args []string) error {
			o.any = !flags.Changed("args")
			return runHost(ctx, app, args[0], args[1:], &o)
		},
	}
}

func runHost(ctx context.Context, app *app, what string, args []string, o *hostFlags) error {
	if o.distro != "" {
		if _, err := app.store.Get(o.distro); err != nil {
			return err
		}
	}
	need := func() error {
		if len(args) == 0 {
			return &usageError{why: "host " + what + ": something is missing"}
		}
		return nil
	}
	none := func() error {
		if len(args) > 0 {
			return &usageError{why: fmt.Sprintf("host %s: %q is too much", what, args[0])}
		}
		return nil
	}
	var action policy.Action
	switch what {
	case "allow", "ask", "deny":
		action = policy.Action(what)
		return checked(need, func() error { return setRules(app, action, args, o) })
	case "forget":
		return checked(need, func() error { return forgetRules(app, args, o) })
	case "list":
		return checked(none, func() error { return listRules(app, o) })
	case "log":
		return checked(none, func() error { return showHostLog(app, o) })
	case "link", "unlink":
		if o.desktop && what == "link" {
			for _, name := range desktop {
				if app.store.Dirs.HostProgram(os.Getenv("PATH"), name) != "" {
					args = append(args, name)
				}
			}
			if len(args) == 0 {
				return &policy.CheckError{Path: "host link --desktop", Why: "this host has none of " + strings.Join(desktop, ", "),
					Cure: "on Debian and Ubuntu: apt install xdg-utils libnotify-bin"}
			}
		}
		return checked(need, func() error { return changeHostLinks(ctx, app, what == "link", args, o) })
	case "links":
		return checked(none, func() error { return listHostLinks(app, o) })
	}
	return &usageError{why: fmt.Sprintf("host: there is no %q", what)}
}

// checked does the second if the first has no objection.
func checked(check, do func() error) error {
	if err := check(); err != nil {
		return err
	}
	return do()
}

// hostPlaces are where programs of rules may not lie, for one distro or for all.
func hostPlaces(app *app, name string) ([]policy.Place, error) {
	names := []string{name}
	if name == "" {
		var err error
		if names, err = app.store.Names(); err != nil {
			return nil, err
		}
	}
	stile, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find stile's own program: %w", err)
	}
	var all []guest.Share
	for _, n := range names {
		shares, err := app.store.Shares(n)
		if err != nil {
			return nil, err
		}
		all = append(all, shares...)
	}
	return machine.Places(app.store.Dirs, stile, all), nil
}

func setRules(app *app, action policy.Action, commands []string, o *hostFlags) error {
	for _, name := range o.env {
		if err := policy.CheckEnv(name); err != nil {
			return err
		}
	}
	places, err := hostPlaces(app, o.distro)
	if err != nil {
		return err
	}
	var rules []policy.Rule
	for _, c := range commands {
		r, err := policy.NewRule(action, c, app.store.Dirs.WithoutLinks(os.Getenv("PATH")), o.shared, places)
		if err != nil {
			return fmt.Errorf("host %s: %w", action, err)
		}
		r.AnyArgs, r.Args, r.Distro, r.Env = o.any, o.args, o.distro, o.env
		rules = append(rules, r)
	}
	err = policy.Change(app.store.Dirs.HostPath(), func(p *policy.Policy) error {
		for _, r := range rules {
			p.Set(r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range rules {
		app.ui.say("%s", ruleText(&r))
	}
	return nil
}

// ruleText is a rule in one line.
func ruleText(r *policy.Rule) string {
	s := string(r.Action) + " " + r.Path
	if r.Real != r.Path {
		s += " (" + r.Real + ")"
	}
	switch {
	case r.AnyArgs:
	case r.Args == "":
		s += " without arguments"
	default:
		s += " " + r.Args
	}
	if r.Distro != "" {
		s += ", for " + r.Distro
	}
	return s
}

func forgetRules(app *app, commands []string, o *hostFlags) error {
	return policy.Change(app.store.Dirs.HostPath(), func(p *policy.Policy) error {
		for _, c := range commands {
			n := len(p.Rules)
			p.Rules = slices.DeleteFunc(p.Rules, func(r policy.Rule) bool {
				return (r.Path == c || r.Name() == c) && (o.distro == "" || r.Distro == o.distro) && (o.any || !r.AnyArgs && r.Args == o.args)
			})
			if len(p.Rules) == n {
				return &policy.CheckError{Path: "host forget " + c, Why: "there is no such rule", Cure: "stile host list has them"}
			}
		}
		return nil
	})
}

func listRules(app *app, o *hostFlags) error {
	p, err := policy.Load(app.store.Dirs.HostPath())
	if err != nil {
		return err
	}
	list := []policy.Rule{}
	for _, r := range p.Rules {
		if o.distro == "" || r.Distro == "" || r.Distro == o.distro {
			list = append(list, r)
		}
	}
	if o.json {
		return app.ui.json(list)
	}
	var rows [][]string
	for _, r := range list {
		args := "any"
		if !r.AnyArgs {
			args = r.Args
		}
		var notes []string
		if r.Real != r.Path {
			notes = append(notes, "→ "+r.Real)
		}
		if r.Shared {
			notes = append(notes, "shared")
		}
		if len(r.Env) > 0 {
			notes = append(notes, "env "+strings.Join(r.Env, " "))
		}
		where := r.Distro
		if where == "" {
			where = "all"
		}
		rows = append(rows, []string{string(r.Action), r.Path, args, where, strings.Join(notes, ", ")})
	}
	app.ui.table([]string{"ACTION", "COMMAND", "ARGUMENTS", "DISTRO", ""}, rows)
	return nil
}

func showHostLog(app *app, o *hostFlags) error {
	all, err := policy.ReadLog(app.store.Dirs.HostLogPath())
	if err != nil {
		return err
	}
	list := []policy.Entry{}
	for _, e := range all {
		if o.distro == "" || e.Distro == o.distro {
			list = append(list, e)
		}
	}
	if o.json {
		return app.ui.json(list)
	}
	var rows [][]string
	for _, e := range list {
		rows = append(rows, []string{e.Time.Local().Format(time.DateTime), e.Distro, e.Answer,
			strings.Join(append([]string{e.Command}, e.Args...), " "), e.Why})
	}
	app.ui.table([]string{"TIME", "DISTRO", "ANSWER", "COMMAND", ""}, rows)
	return nil
}

func changeHostLinks(ctx context.Context, app *app, add bool, names []string, o *hostFlags) error {
	for _, n := range names {
		if err := policy.CheckLink(n); add && err != nil {
			return err
		}
	}
	var now *policy.Policy
	err := policy.Change(app.store.Dirs.HostPath(), func(p *policy.Policy) error {
		for _, n := range names {
			l := policy.Link{Name: n, Distro: o.distro}
			at := slices.Index(p.Links, l)
			switch {
			case add && at < 0:
				p.Links = append(p.Links, l)
			case !add && at < 0:
				return &policy.CheckError{Path: "host unlink " + n, Why: "there is no such link", Cure: "stile host links has them"}
			case !add:
				p.Links = slices.Delete(p.Links, at, at+1)
			}
		}
		now = p
		return nil
	})
	if err != nil {
		return err
	}
	if add {
		for _, n := range names {
			if o.desktop {
				app.ui.say("%s", n)
			}
			if d := now.Decide(&policy.Request{Distro: o.distro, Command: n}); d.Rule == nil {
				app.ui.note("no rule allows %s yet: stile host allow %s", n, n)
			}
		}
	}
	distros, err := app.store.Names()
	if err != nil {
		return err
	}
	for _, name := range distros {
		if err := tellLinks(ctx, app, name, now.LinksOf(name)); err != nil {
			app.ui.note("the running machine of %s keeps what it has until it is stopped: %v", name, err)
		}
	}
	return nil
}

// tellLinks brings the machine of a distro, if it runs, to what the policy says.
func tellLinks(ctx context.Context, app *app, name string, links []string) error {
	return whileRunning(ctx, app, name, func(ctx context.Context, c *machine.Client) error {
		return c.Links(ctx, append([]string{}, links...))
	})
}

func listHostLinks(app *app, o *hostFlags) error {
	p, err := policy.Load(app.store.Dirs.HostPath())
	if err != nil {
		return err
	}
	list := []policy.Link{}
	for _, l := range p.Links {
		if o.distro == "" || l.Distro == "" || l.Distro == o.distro {
			list = append(list, l)
		}
	}
	if o.json {
		return app.ui.json(list)
	}
	var rows [][]string
	for _, l := range list {
		where := l.Distro
		if where == "" {
			where = "all"
		}
		rows = append(rows, []string{l.Name, where})
	}
	app.ui.table([]string{"NAME", "DISTRO"}, rows)
	return nil
}
