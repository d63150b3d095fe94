package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// stile is the side that this is about, run as its users do: through links. It
// has a home and a store of its own; kernels and root file systems are the
// user's cache's.
type stile struct {
	bin  string // folder of the programs
	home string // shared with the guest
	data string // $XDG_DATA_HOME
	env  []string
}

// linked are the guest's commands that the rows use.
var linked = []string{"echo", "true", "cat", "sh"}

// newStile installs a distro and links the commands.
func (b *bench) newStile() (*stile, error) {
	s := &stile{
		bin:  b.bin,
		home: filepath.Join(b.work, "home"), data: filepath.Join(b.work, "data"),
	}
	config, runtime := filepath.Join(b.work, "config"), filepath.Join(b.work, "run")
	for _, dir := range []string{s.home, s.data, runtime, filepath.Join(config, "stile")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	engine := "qemu"
	if b.accel == "kvm" {
		engine = "kvm"
	}
	// The machine is to end when it is told to.
	settings := fmt.Sprintf("engine = %q\nmemory = \"%dMiB\"\ncpus = %d\nidle = \"24h\"\n", engine, b.memory, b.cpus)
	if err := os.WriteFile(filepath.Join(config, "stile/config.toml"), []byte(settings), 0o600); err != nil {
		return nil, err
	}
	s.env = environ(map[string]string{
		"HOME":            s.home,
		"XDG_CONFIG_HOME": config,
		"XDG_DATA_HOME":   s.data,
		"XDG_CACHE_HOME":  b.cache,
		"XDG_RUNTIME_DIR": runtime,
	})
	if b.distro != "" {
		dir := filepath.Join(s.data, "stile/distros/deb")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := run(exec.CommandContext(b.ctx, "tar", "-xSf", b.distro, "-C", dir)); err != nil {
			return nil, err
		}
	} else if err := run(s.stile(b.ctx, "install", "debian", "--name", "deb")); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	err := run(s.stile(b.ctx, append([]string{"link", "-d", "deb"}, linked...)...))
	return s, errors.Join(err, s.stop()) // the machine that unpacked may still run
}

func (s *stile) stile(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "stile"), args...)
	cmd.Env, cmd.Dir = s.env, s.home
	return cmd
}

func (s *stile) name() string   { return "stile" }
func (s *stile) folder() string { return s.home }

func (s *stile) boot(ctx context.Context) (time.Duration, error) {
	cmd := s.command(ctx, "echo")
	cmd.Args = append(cmd.Args, "x")
	return firstByte(cmd, time.Now())
}

func (s *stile) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return run(s.stile(ctx, "stop", "--all"))
}

func (s *stile) command(ctx context.Context, program string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.data, "stile/bin", program))
	cmd.Env, cmd.Dir = s.env, s.home
	return cmd
}

func (s *stile) shell(ctx context.Context, line string) *exec.Cmd {
	cmd := s.command(ctx, "sh")
	cmd.Args = append(cmd.Args, "-c", line)
	return cmd
}

// pids are the supervisor, its vmm process, and QEMU where that is the engine.
func (s *stile) pids() ([]int, error) {
	out, err := output(s.stile(context.Background(), "status", "--json"))
	if err != nil {
		return nil, err
	}
	var status []struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return nil, fmt.Errorf("stile status: %w: %s", err, out)
	}
	if len(status) != 1 || status[0].PID == 0 {
		return nil, fmt.Errorf("stile status names no one machine: %s", out)
	}
	return tree(status[0].PID)
}
