package cli

import (
	"context"
	"runtime"

	"github.com/stilehq/stile/kernel"
)

func newVersionCommand() *command {
	return &command{
		name: "version", short: "Print the versions of stile and of the guests' kernel",
		run: func(ctx context.Context, app *app, args []string) error {
			app.ui.say("stile %s (kernel %s, %s, %s/%s)", app.version, kernel.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
