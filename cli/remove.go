package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/stilehq/stile/distro"
)

func newRemoveCommand() *command {
	return &command{
		name: "remove", aliases: []string{"rm"}, args: "NAME", min: 1, max: 1,
		short: "Delete a distro with its disk and its links",
		long:  "Its machine has to be stopped.",
		run: func(ctx context.Context, app *app, args []string) error {
			return runRemove(app, args[0])
		},
	}
}

func runRemove(app *app, name string) error {
	err := app.store.Remove(name)
	var inUse *distro.InUseError
	if errors.As(err, &inUse) {
		return &runningError{name}
	}
	if err != nil {
		return err
	}
	links, err := app.store.LinksTo(name)
	if err != nil {
		return err
	}
	var gone []string
	for _, l := range links {
		if err := app.store.Unlink(l.Name); err != nil {
			return err
		}
		gone = append(gone, l.Name)
	}
	if len(gone) > 0 {
		app.ui.say("its links are gone too: %s", strings.Join(gone, " "))
	}
	return refreshViews(app)
}

type runningError struct{ name string }

func (e *runningError) Error() string { return fmt.Sprintf("remove %s: its machine runs", e.name) }
func (e *runningError) Hint() string  { return "stop it first: stile stop " + e.name }
