package cli

import "context"

func newDefaultCommand() *command {
	return &command{
		name: "default", args: "[NAME]", max: 1,
		short: "Show or choose the distro that commands use where none is named",
		run: func(ctx context.Context, app *app, args []string) error {
			if len(args) == 1 {
				return app.store.SetDefault(args[0])
			}
			name, err := app.store.Default()
			if err != nil {
				return err
			}
			app.ui.say("%s", name)
			return nil
		},
	}
}
