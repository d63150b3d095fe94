package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/completions"
	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
)

// completerCommand is the name of the command that keeps a completion server.
const completerCommand = "completer"

// newCompleterCommand is the resident between the shells and a distro's
// completion server: the first TAB starts it.
func newCompleterCommand() *command {
	return &command{
		name: completerCommand, args: "NAME", min: 1, max: 1, hidden: true,
		short: "Keep the completion server of a distro (TAB starts this itself)",
		run: func(ctx context.Context, app *app, args []string) error {
			return runCompleter(app, args[0])
		},
	}
}

func runCompleter(app *app, name string) error {
	d, err := app.store.Get(name)
	if err != nil {
		return err
	}
	dir, err := app.store.Dirs.EnsureRuntime(name)
	if err != nil {
		return err
	}
	// One a machine: who comes second leaves the first alone.
	lock, err := os.OpenFile(filepath.Join(dir, completerSocket+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock completion server: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	} else if err != nil {
		return fmt.Errorf("lock completion server: %w", err)
	}
	path := filepath.Join(dir, completerSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for shells: %w", err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("listen for shells: %w", err)
	}
	// Requests wait in the listener while the machine and the server start.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd, f, err := guestCommand(ctx, app.store, d, wire.Record{Aside: true}, completions.ServerCommand()...)
	if err != nil {
		return err
	}
	defer f.Close()
	// Pipes of our own: those of cmd would be closed when the session ends, with
	// what is still in them.
	stdin, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start completion server: %w", err)
	}
	defer in.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return fmt.Errorf("start completion server: %w", err)
	}
	defer out.Close()
	cmd.Env, cmd.Stdin, cmd.Stdout = completerEnv(os.Environ()), stdin, stdout
	err = cmd.Start()
	stdin.Close()
	stdout.Close()
	if err != nil {
		return fmt.Errorf("start completion server: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		cancel() // the machine was stopped, say
	}()
	r := &completions.Resident{Server: completions.NewServer(in, out), Kill: cancel}
	cache := newCompletionCache(d)
	r.Answered = func(q *completions.Request, a *completions.Answer) { cache.learn(r, q, a) }
	err = r.Serve(ctx, l, completions.ResidentIdle)
	in.Close() // the server ends at the end of its input
	if err != nil {
		cancel()
	}
	// How the session ended is no news here: nobody waits for an answer.
	<-ended
	return err
}

// completerEnv is the environment of the first shell that pressed TAB, without
// what is that shell's alone. Functions count characters of UTF-8.
func completerEnv(env []string) []string {
	var out []string
	utf8 := false
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "LC_ALL", "LC_CTYPE", "LANG":
			utf8 = utf8 || strings.Contains(strings.ToLower(strings.ReplaceAll(value, "-", "")), "utf8")
		case "BASH_ENV", "ENV", "PWD", "OLDPWD", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE":
			continue
		}
		out = append(out, e)
	}
	if !utf8 {
		out = append(out, "LC_ALL=C.UTF-8")
	}
	return out
}

// newCompletionCache is what is remembered of a distro's completions. It lies with
// the distro's disk, and goes with it.
func newCompletionCache(d *distro.Distro) *completionCache {
	return &completionCache{dir: filepath.Join(d.Dir, "completions")}
}
