package distro

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// Engine says what runs a machine.
type Engine string

// The engines.
const (
	EngineAuto Engine = "auto" // kvm where it is usable, else qemu
	EngineKVM  Engine = "kvm"
	EngineQEMU Engine = "qemu"
)

// UnmarshalText accepts the names of engines only.
func (e *Engine) UnmarshalText(text []byte) error {
	switch v := Engine(text); v {
	case EngineAuto, EngineKVM, EngineQEMU:
		*e = v
		return nil
	}
	return fmt.Errorf("engine %q: choose auto, kvm or qemu", text)
}

// Size is a number of bytes, in settings a number with KiB, MiB, GiB or TiB.
type Size int64

// UnmarshalText reads "512MiB", "4GiB", "1.5 GiB", and bare bytes.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	*s = v
	return err
}

// ParseSize reads a size as settings hold it. "G", "GB" and "GiB" all mean 2^30
// bytes.
func ParseSize(text string) (Size, error) {
	bad := fmt.Errorf("size %q: write a number and KiB, MiB, GiB or TiB", text)
	end := strings.LastIndexAny(text, "0123456789.") + 1
	number, err := strconv.ParseFloat(text[:end], 64)
	if err != nil {
		return 0, bad
	}
	unit := strings.ToLower(strings.TrimLeft(text[end:], " "))
	shift := map[string]uint{"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20,
		"g": 30, "gb": 30, "gib": 30, "t": 40, "tb": 40, "tib": 40}
	n, ok := shift[unit]
	bytes := number * float64(uint64(1)<<n)
	if !ok || bytes < 0 || bytes > math.MaxInt64/2 || math.IsNaN(bytes) {
		return 0, bad
	}
	return Size(bytes), nil
}

// String writes the size with the largest unit that leaves it at least 1.
func (s Size) String() string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, n := float64(s), 0
	for v >= 1024 && n < len(units)-1 {
		v, n = v/1024, n+1
	}
	digits := 1
	if v == math.Trunc(v) || v >= 100 {
		digits = 0
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + " " + units[n]
}

// Duration is a time span as time.ParseDuration reads it: "60s", "1h30m".
type Duration time.Duration

// UnmarshalText reads a time span that is not negative.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("time %q: write it like 60s, 5m or 1h30m", text)
	}
	*d = Duration(v)
	return nil
}

// Settings are what the user may set for all distros and for each.
type Settings struct {
	Engine Engine
	Memory uint64        // of the guest in bytes; the host gives what the guest touches
	CPUs   int           // of the guest
	Idle   time.Duration // after which a machine with nothing to do ends; 0 = never
	// Shares maps folders to modes, as written: "~" is the home. See ShareList.
	Shares map[string]Mode
}

// table is one table of settings as in the file; nil is unset.
type table struct {
	Engine *text[Engine, *Engine]       `toml:"engine"`
	Memory *text[Size, *Size]           `toml:"memory"`
	CPUs   *int                         `toml:"cpus"`
	Idle   *text[Duration, *Duration]   `toml:"idle"`
	Shares map[string]text[Mode, *Mode] `toml:"shares"`
}

// A text is a value that has its own UnmarshalText. go-toml calls it for a
// struct only: what is a string or an integer to Go it sets itself, and so would
// take any word for an Engine and 60 for 60 nanoseconds.
type text[T any, P interface {
	*T
	encoding.TextUnmarshaler
}] struct{ value T }

func (t *text[T, P]) UnmarshalText(b []byte) error { return P(&t.value).UnmarshalText(b) }

// A Config is what config.toml holds. The keys at its top are for all distros,
// those below [distro.NAME] for one.
//
//	engine = "auto"        # kvm, qemu
//	memory = "4GiB"        # default: half of the host's, 512 MiB to 8 GiB
//	cpus = 4               # default: all of the host's
//	idle = "60s"           # "0s" = a machine stays until it is stopped
//
//	[shares]               # besides "~" = "rw" and "/tmp" = "rw"
//	"~/src" = "ro"         # rw, ro or none
//
//	[shell]                # see ShellSettings
//	command_not_found = "offer"
//
//	[distro.debian]
//	memory = "8GiB"
type Config struct {
	path   string
	global table
	each   map[string]table
	shell  shellTable
}

type configFile struct {
	table
	Shell  shellTable       `toml:"shell"`
	Distro map[string]table `toml:"distro"`
}

// ConfigPath is the file of the user's settings.
func (d Dirs) ConfigPath() string { return filepath.Join(d.Config, "config.toml") }

// LoadConfig reads the user's settings. A file that does not exist is an empty
// one; an unknown key or a value that makes no sense is a *ConfigError.
func LoadConfig(dirs Dirs) (*Config, error) {
	c := &Config{path: dirs.ConfigPath()}
	var file configFile
	if err := readTOML(c.path, &file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c.global, c.each, c.shell = file.table, file.Distro, file.Shell
	if err := c.check("", c.global); err != nil {
		return nil, err
	}
	for name, t := range c.each {
		if err := CheckName(name); err != nil {
			return nil, &ConfigError{Path: c.path, Why: fmt.Sprintf("[distro.%s]: %v", name, err)}
		}
		if err := c.check("distro."+name+".", t); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// minMemory is less than any distro runs in.
const minMemory = 128 << 20

func (c *Config) check(prefix string, t table) error {
	if t.CPUs != nil && (*t.CPUs < 1 || *t.CPUs > 255) {
		return &ConfigError{Path: c.path, Why: fmt.Sprintf("%scpus is %d: 1 to 255 are possible", prefix, *t.CPUs)}
	}
	if t.Memory != nil && t.Memory.value < minMemory {
		return &ConfigError{Path: c.path, Why: fmt.Sprintf("%smemory is %v: at least %v are needed", prefix, t.Memory.value, Size(minMemory))}
	}
	return nil
}

// Settings reads the user's settings and returns those of one distro.
func (s *Store) Settings(name string) (Settings, error) {
	config, err := LoadConfig(s.Dirs)
	if err != nil {
		return Settings{}, err
	}
	return config.Settings(name), nil
}

// Settings are those of one distro: its own, else those for all, else the
// defaults.
func (c *Config) Settings(name string) Settings {
	s := Settings{
		Engine: EngineAuto,
		Memory: defaultMemory(),
		CPUs:   runtime.NumCPU(),
		Idle:   60 * time.Second,
		Shares: map[string]Mode{},
	}
	for _, t := range []table{c.global, c.each[name]} {
		if t.Engine != nil {
			s.Engine = t.Engine.value
		}
		if t.Memory != nil {
			s.Memory = whole(uint64(t.Memory.value))
		}
		if t.CPUs != nil {
			s.CPUs = *t.CPUs
		}
		if t.Idle != nil {
			s.Idle = time.Duration(t.Idle.value)
		}
		for path, mode := range t.Shares {
			s.Shares[path] = mode.value
		}
	}
	return s
}

// defaultMemory is the memory of a guest of this host that nobody has said
// otherwise of.
func defaultMemory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 30
	}
	return memoryFor(uint64(info.Totalram) * uint64(info.Unit))
}

// memoryFor is half of a host's bytes, 8 GiB at most: the guest's page cache
// would take whatever there is; and 512 MiB at least, which a guest does not take
// as long as it does not touch them.
func memoryFor(host uint64) uint64 {
	return whole(max(min(host/2, 8<<30), 512<<20))
}

// whole is memory as engines have it, in pieces of 2 MiB.
func whole(memory uint64) uint64 { return memory &^ (1<<21 - 1) }

// ConfigError says what is wrong in a settings file, and where.
type ConfigError struct {
	Path string
	Line int // 0 if it is about no single line
	Why  string
}

func (e *ConfigError) Error() string {
	if e.Line == 0 {
		return e.Path + ": " + e.Why
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Why)
}

// Hint is the cure.
func (e *ConfigError) Hint() string { return "correct the file; see stile help config" }

// readTOML reads a file into v and refuses keys that v has no field for.
func readTOML(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	return decodeTOML(path, data, v)
}

// decodeTOML is readTOML of bytes that were read already.
func decodeTOML(path string, data []byte, v any) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(v)
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		first := unknown.Errors[0]
		line, _ := first.Position()
		return &ConfigError{path, line, fmt.Sprintf("unknown key %q", strings.Join(first.Key(), "."))}
	case errors.As(err, &bad):
		line, _ := bad.Position()
		return &ConfigError{path, line, strings.TrimPrefix(bad.Error(), "toml: ")}
	case err != nil:
		return &ConfigError{path, 0, strings.TrimPrefix(err.Error(), "toml: ")}
	}
	return nil
}
