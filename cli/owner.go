package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/machine"
)

// A distro is one user's, and so is its machine: its processes are his, and the
// files that they make. Root may use it all the same, as root in the distro; that
// is what `sudo apt install` is to mean where apt is a link. So root starts the
// machine as its owner, and takes the distro of who called sudo if he has none.

// startMachine sees to it that a distro's machine runs, as its owner.
func startMachine(ctx context.Context, store *distro.Store, d *distro.Distro) error {
	owner, err := d.Owner()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 || owner == 0 {
		return machine.Start(ctx, store, d.Name)
	}
	return startAs(ctx, owner, store.Dirs, d.Name)
}

// startAs runs `stile start` as another user.
func startAs(ctx context.Context, uid int, dirs distro.Dirs, name string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find stile's own program: %w", err)
	}
	u, credential, err := credentialOf(uid)
	if err != nil {
		return fmt.Errorf("start distro %s: find its owner: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, self, "start", "--quiet", name)
	cmd.Dir = "/"
	cmd.Env = ownersEnv(os.Environ(), u.Username, dirs)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return exitError(exitStile) // it has said why
	case err != nil:
		return fmt.Errorf("start distro %s as %s: %w", name, u.Username, err)
	}
	return nil
}

// credentialOf is a user with all groups, for /dev/kvm may be a group's.
func credentialOf(uid int) (*user.User, *syscall.Credential, error) {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return nil, nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, nil, err
	}
	c := &syscall.Credential{Uid: uint32(uid)}
	for i, id := range append([]string{u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("group %q: %w", id, err)
		}
		if i == 0 {
			c.Gid = uint32(n)
		} else {
			c.Groups = append(c.Groups, uint32(n))
		}
	}
	return u, c, nil
}

// ownersEnv is root's environment made that of the owner of dirs. The runtime
// folder is found without its variable, where his logins have it.
func ownersEnv(env []string, name string, dirs distro.Dirs) []string {
	own := append(dirs.Environ(), "USER="+name, "LOGNAME="+name)
	out := slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		key, _, _ := strings.Cut(e, "=")
		return key == "XDG_RUNTIME_DIR" || key == "TMPDIR" || key == "MAIL" || strings.HasPrefix(key, "SUDO_") ||
			slices.ContainsFunc(own, func(o string) bool { return strings.HasPrefix(o, key+"=") })
	})
	return append(out, own...)
}

// callers is the app as who called sudo has it, for a root who has no distro of
// his own by this name, "" being any; otherwise it is a itself.
func (a *app) callers(name string) (*app, error) {
	uid, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	if os.Geteuid() != 0 || err != nil || uid <= 0 {
		return a, nil
	}
	names, err := a.store.Names()
	if err != nil {
		return nil, err
	}
	if len(names) > 0 && (name == "" || slices.Contains(names, name)) {
		return a, nil
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return nil, fmt.Errorf("find who called sudo: %w", err)
	}
	dirs, err := distro.DirsOf(u.HomeDir, uid)
	if err != nil {
		return nil, err
	}
	other := *a
	other.store = distro.NewStore(dirs)
	return &other, nil
}
