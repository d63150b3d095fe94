package cli

import (
	"context"

	"github.com/stilehq/stile/machine"
	"github.com/stilehq/stile/machine/broker"
	"github.com/stilehq/stile/machine/vmmproc"
)

// newMachineCommand is the supervisor of a machine; machine.Start runs it.
func newMachineCommand() *command {
	return &command{
		name: machine.Command, args: "NAME", min: 1, max: 1, hidden: true,
		short: "Supervise the machine of a distro (stile starts this itself)",
		run: func(ctx context.Context, app *app, args []string) error {
			return ended(machine.Main(app.store, args[0], app.version))
		},
	}
}

// newVMMCommand is the vmm process of a machine; its supervisor runs it.
func newVMMCommand() *command {
	return &command{
		name: vmmproc.Command, max: -1, hidden: true,
		short: "Serve the devices of a machine (stile starts this itself)",
		run: func(ctx context.Context, app *app, args []string) error {
			return ended(vmmproc.Main())
		},
	}
}

// newSitterCommand is the parent of a host command that a guest called; the
// supervisor runs it.
func newSitterCommand() *command {
	return &command{
		name: broker.SitterCommand, hidden: true,
		short: "Run a command of the host for a guest (stile starts this itself)",
		run: func(ctx context.Context, app *app, args []string) error {
			return ended(broker.SitterMain())
		},
	}
}

func ended(status int) error {
	if status == exitOK {
		return nil
	}
	return exitError(status)
}
