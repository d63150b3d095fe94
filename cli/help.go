package cli

import "context"

func newHelpCommand() *command {
	return &command{
		name: "help", args: "[COMMAND]", max: 1, short: "Tell what a command does",
		run: func(ctx context.Context, app *app, args []string) error {
			return runHelp(app, first(args))
		},
	}
}

func runHelp(app *app, name string) error {
	switch name {
	case "":
		app.ui.commandList(commands())
		return nil
	case "config":
		app.ui.say("%s", configHelp)
		return nil
	}
	c := findCommand(name)
	if c == nil {
		return app.unknown(name)
	}
	app.ui.help(c)
	return nil
}

const configHelp = `The settings are in $XDG_CONFIG_HOME/stile/config.toml (~/.config/stile/config.toml).
Each key may be left out. Those at the top are for all distros, those below
[distro.NAME] for one.

engine = "auto"        # kvm or qemu
memory = "4GiB"        # of a guest; by default half of the host's, 512 MiB to 8 GiB
cpus = 4               # of a guest; by default as many as the host has
idle = "60s"           # how long a machine waits for work; "0s" is for ever

[shares]               # besides "~" = "rw" and "/tmp" = "rw"
"~/src" = "ro"         # rw, ro or none

[shell]                # of the hooks of stile init
command_not_found = "offer"   # or run it in the guest ("run"), or "off"
complete_wait = "300ms"       # how long TAB waits for the guest; then file names
complete_start = false        # whether TAB may start a machine

[distro.debian]
memory = "8GiB"`
