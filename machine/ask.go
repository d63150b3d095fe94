package machine

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// askLimit is how long a user has to answer.
const askLimit = 60 * time.Second

// ask has the user asked whether a command may run, by a program: helper with the
// question as one more argument, or a dialog of the desktop's. Status 0 is yes. It
// returns "" for yes, else why not.
func ask(ctx context.Context, helper, env []string, distro, path string, args []string) string {
	question := fmt.Sprintf("The distro %s wants to run on this host:\n\n%s", distro, printableName(path))
	for i, a := range args {
		if i == 20 {
			question += " ..."
			break
		}
		question += " " + printableName(a)
	}
	if len(helper) == 0 {
		helper = dialog(env)
	}
	if len(helper) == 0 {
		return "the host's user is to be asked, and there is no program that could ask"
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, helper[0], append(helper[1:len(helper):len(helper)], question)...)
	cmd.Env = env
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return ""
	case ctx.Err() != nil:
		return "the host's user did not answer"
	case errors.As(err, &exit) && exit.Exited():
		return "the host's user said no"
	}
	return "the host's user is to be asked, and the program that asks does not run"
}

// dialog is the desktop's program that asks, nil where there is no desktop.
func dialog(env []string) []string {
	desktop := false
	for _, e := range env {
		for _, name := range []string{"DISPLAY=", "WAYLAND_DISPLAY="} {
			desktop = desktop || strings.HasPrefix(e, name) && e != name
		}
	}
	if !desktop {
		return nil
	}
	if path, err := exec.LookPath("zenity"); err == nil {
		return []string{path, "--question", "--no-markup", "--title=stile", "--text"}
	}
	if path, err := exec.LookPath("kdialog"); err == nil {
		return []string{path, "--title", "stile", "--yesno"}
	}
	return nil
}
