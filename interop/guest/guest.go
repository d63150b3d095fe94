// Package guest is what the machine tells guestinit outside of sessions: the
// configuration that it finds in its initramfs, and the bodies of calls
// (wire.Call) on a stream of kind wire.StreamCall. All of it is JSON.
package guest

// ConfigPath is where guestinit finds its Config in the initramfs.
const ConfigPath = "/stile.json"

// ShareTag is the virtio-fs tag of the one device that serves all shares: its
// root holds a directory for each, named by Share.Dir.
const ShareTag = "stile"

// A Mode is what guestinit boots for.
type Mode string

// The modes.
const (
	ModeRun    Mode = "run"    // the distro: sessions
	ModeImport Mode = "import" // an empty root disk that one wire.StreamImport fills; then shutdown
)

// Config is everything that guestinit has to know to bring the guest up; no
// round trip to the host is needed for it.
type Config struct {
	Generation uint64  `json:"generation"` // random, new for each run of a machine; every Hello repeats it
	Mode       Mode    `json:"mode"`
	Distro     string  `json:"distro"`
	Hostname   string  `json:"hostname"`
	Root       string  `json:"root"` // block device, "/dev/vda"
	User       User    `json:"user"`
	Shares     []Share `json:"shares"`
	Time       int64   `json:"time"` // CLOCK_REALTIME of the host in ns when the machine was started
	Zone       Zone    `json:"zone"`
	Host       *Host   `json:"host"`     // nil: no command of the host's can be called
	Isolated   bool    `json:"isolated"` // of the caller's environment what names nothing of the host's
}

// A Zone is the host's time zone. Without name and data it is UTC.
type Zone struct {
	Name string `json:"name"` // "Europe/Berlin"; "" if it has none that a guest could know
	Data []byte `json:"data"` // the host's /etc/localtime: tzfile(5)
}

// Host is what the guest has of commands of the host's.
type Host struct {
	Links []string `json:"links"` // names for its PATH
}

// HostDir is the folder of host commands in the distro: at the end of each guest
// command's PATH.
const HostDir = "/run/stile/commands"

// User is the host's user, whom guestinit gives the same name and numbers in
// the distro.
type User struct {
	Name  string `json:"name"`
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	Group string `json:"group"` // name of GID
	Home  string `json:"home"`
	Shell string `json:"shell"` // as on the host; guestinit takes /bin/bash or /bin/sh where the distro lacks it
}

// Share is one host folder to be seen at the same path in the distro.
type Share struct {
	Dir      string `json:"dir"`  // name in the root of the shares' file system
	Path     string `json:"path"` // absolute, on host and guest alike
	ReadOnly bool   `json:"readOnly"`
}

// Names of the calls to guestinit, with the type of request and answer bodies.
const (
	CallMount     = "mount"     // Share: mount it in the distro
	CallUnmount   = "unmount"   // Share: unmount it (lazily, with a note of who used it)
	CallProcesses = "processes" // → Processes
	CallTime      = "time"      // Time: step the clock
	CallZone      = "zone"      // Zone: the host's time zone has changed
	CallLinks     = "links"     // []string: the host commands on the PATH, from now on
	CallReclaim   = "reclaim"   // → Reclaimed: shrink the page cache, as nothing runs
	CallShutdown  = "shutdown"  // end all processes (TERM, then KILL), sync, unmount, power off; answered before the power goes
)

// Reclaimed is what went out of the page cache.
type Reclaimed struct {
	Bytes uint64 `json:"bytes"`
}

// Processes is what runs in the distro besides stile's own.
type Processes struct {
	Sessions int       `json:"sessions"` // whose command has not ended
	Left     []Process `json:"left"`     // that outlived their session's command
}

// Process is one guest process.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

// Time carries the host's clock.
type Time struct {
	Now int64 `json:"now"` // CLOCK_REALTIME in ns
}
