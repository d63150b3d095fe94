package vmmproc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stilehq/stile/interop/call"
	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/session"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/fileserver"
	"github.com/stilehq/stile/vmm/kvm"
	"github.com/stilehq/stile/vmm/qemu"
	"github.com/stilehq/stile/vmm/virtio"
	"github.com/stilehq/stile/vmm/virtio/fs"
	"github.com/stilehq/stile/vmm/virtio/vsock"
)

// guestCID is the guest's address on its vsock. Each machine has a vsock of its
// own, so all guests have the same; 3 is the first that is not reserved.
const guestCID = 3

// helloLimit bounds the wait for a message that a guest owes at once.
const helloLimit = 10 * time.Second

// Main is the vmm process: it serves until the machine or the supervisor has
// ended, and returns the exit status. Its last words are for stderr.
func Main() int {
	signal.Ignore(syscall.SIGPIPE) // a write to a descriptor that nobody reads is an error, not our end
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run() error {
	serve, err := inherited(serveFD)
	if err != nil {
		return err
	}
	calls, err := inherited(callsFD)
	if err != nil {
		return err
	}
	streams, err := inherited(streamsFD)
	if err != nil {
		return err
	}
	p := &process{serve: serve, streams: streams, ended: make(chan error, 1), up: make(chan struct{}), shares: make(map[string]guest.Share)}
	// Before there is a guest that could take this process over.
	if err := confine(); errors.Is(err, errNoSeccomp) {
		p.unconfined = err.Error()
	} else if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		// The supervisor's end is ours: there is nothing to do in order.
		call.Serve(ctx, calls, p.handle)
		os.Exit(0)
	}()
	return <-p.ended
}

func inherited(fd uintptr) (*net.UnixConn, error) {
	f := os.NewFile(fd, "inherited")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: stile's machine starts this command: %w", fd, err)
	}
	return conn.(*net.UnixConn), nil
}

// A process is the state of the vmm process.
type process struct {
	cfg      Config
	vsock    *vsock.Device
	files    *fileserver.Server
	machine  vmm.Machine // from CallStart on, which is the first call
	sessions *session.Server
	input    *os.File // tar stream of an import
	up       chan struct{}
	ended    chan error

	unconfined string // why this process has rights that it needs not

	eventsMu sync.Mutex
	serve    *net.UnixConn // written to with eventsMu held
	streams  *net.UnixConn // of serveStreams

	sharesMu sync.Mutex
	shares   map[string]guest.Share // by Dir

	links atomic.Pointer[[]string] // host commands on the guest's PATH

	guestMu sync.Mutex
	guest   *call.Client // to guestinit; nil before the first call
}

// requestQueues is how many queues the file system has: more would let a guest
// with many vCPUs send requests with no lock shared, at a vector each.
const requestQueues = 1

// start serves the devices and begins to wait for the guest.
func (p *process) start(ctx context.Context, cfg Config) error {
	p.cfg = cfg
	p.vsock = vsock.New(guestCID)
	unix.Umask(0) // what guests make has the modes that guests want
	var err error
	if p.files, err = fileserver.New(fileserver.Options{}); err != nil {
		return fmt.Errorf("file server: %w", err)
	}
	if err := p.files.Hide(cfg.Hidden...); err != nil {
		return fmt.Errorf("file server: %w", err)
	}
	for _, s := range cfg.Guest.Shares {
		if err := p.addShare(s); err != nil {
			return err
		}
	}
	if p.sessions, err = session.NewServer(session.Config{
		Dial:       p.dialSession,
		Generation: cfg.Guest.Generation,
		Prepare:    p.prepare,
		Changed:    func(running int) { p.event(EventSessions, running) },
	}); err != nil {
		return err
	}
	engine, config, files := p.engine()
	if cfg.Input {
		p.input = os.NewFile(engineFD+uintptr(files), "archive")
	}
	listener, err := p.vsock.Listen(wire.HostPort)
	if err != nil {
		return fmt.Errorf("vsock: %w", err)
	}
	if cfg.Guest.Host != nil {
		p.links.Store(&cfg.Guest.Host.Links)
		l, err := p.vsock.Listen(wire.HostCommandPort)
		if err != nil {
			return fmt.Errorf("vsock: %w", err)
		}
		go p.serveStreams(l, p.streams)
	}
	config.Devices = []virtio.Device{
		qemu.SocketVsock: p.vsock,
		qemu.SocketFS:    fs.New(guest.ShareTag, p.files, requestQueues),
	}
	m, err := engine.Start(ctx, config)
	for _, f := range []*os.File{config.Kernel, config.Initramfs} {
		if f != nil {
			f.Close()
		}
	}
	if err != nil {
		return err
	}
	p.machine = m
	go p.awaitReady(listener)
	go p.accept()
	go func() { p.ended <- m.Wait() }()
	return nil
}

// engine is the machine's engine with its part of the machine's configuration,
// and how many descriptors are its own.
func (p *process) engine() (vmm.Engine, *vmm.Config, int) {
	file := func(i int, name string) *os.File { return os.NewFile(engineFD+uintptr(i), name) }
	if p.cfg.Engine == kvm.Name {
		device := file(FileKVM, "kvm")
		var params []string
		if kvm.OnTCG() {
			params = []string{"maxcpus=1"} // see vmm/qemu; guestinit starts the others
		}
		return &kvm.Engine{KVM: device}, &vmm.Config{
			CPUs: p.cfg.CPUs, Memory: p.cfg.Memory,
			Kernel: file(FileKernel, "kernel"), Initramfs: file(FileInitramfs, "initramfs"), Cmdline: params,
			Disk: file(FileDisk, "disk"), Console: file(FileConsole, "console"),
			Stalled: func(stalled bool) { p.event(EventStalled, stalled) },
		}, kvmFiles
	}
	sockets := []*os.File{
		qemu.SocketVsock: file(qemu.SocketVsock, "vsock"),
		qemu.SocketFS:    file(qemu.SocketFS, "fs"),
	}
	return &qemu.Engine{Sockets: sockets}, new(vmm.Config), len(sockets)
}

func (p *process) addShare(s guest.Share) error {
	p.sharesMu.Lock()
	defer p.sharesMu.Unlock()
	if err := p.files.AddShare(fileserver.Share{Dir: s.Dir, Path: s.Path, ReadOnly: s.ReadOnly}); err != nil {
		return err
	}
	p.shares[s.Dir] = s
	return nil
}

func (p *process) removeShare(s guest.Share) error {
	p.sharesMu.Lock()
	defer p.sharesMu.Unlock()
	delete(p.shares, s.Dir)
	return p.files.RemoveShare(s.Dir)
}

// awaitReady takes guestinit's word that it is up, or why it is not.
func (p *process) awaitReady(l net.Listener) {
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var r wire.Ready
		conn.SetReadDeadline(time.Now().Add(helloLimit))
		typ, payload, err := wire.NewReader(conn.Read).Next()
		conn.Close()
		if err != nil || typ != wire.TypeReady || r.Parse(payload) != nil || r.Generation != p.cfg.Guest.Generation {
			continue // not guestinit
		}
		if r.Version != wire.Version {
			r.Err = &wire.Error{Code: 125, What: "distro " + p.cfg.Guest.Distro,
				Why: fmt.Sprintf("guestinit speaks protocol version %d, not %d", r.Version, wire.Version)}
		}
		p.event(EventReady, Ready{Kernel: r.Kernel, Err: r.Err})
		close(p.up)
		return
	}
}

func (p *process) event(name string, body any) {
	p.eventsMu.Lock()
	defer p.eventsMu.Unlock()
	p.serve.Write(appendEvent(nil, name, body)) // fails when the supervisor has ended, and so do we
}

// accept takes the sessions that the supervisor hands on.
func (p *process) accept() {
	for {
		q, err := session.Accept(p.serve)
		if errors.Is(err, session.ErrRequest) {
			continue // of one shim, which was told
		}
		if err != nil {
			return // the supervisor has ended
		}
		if e := p.check(&q.Run); e != nil {
			q.Conn.SetWriteDeadline(time.Now().Add(helloLimit))
			q.Conn.Write(wire.AppendMessage(nil, wire.TypeError, e.Append(nil)))
			q.Close()
			continue
		}
		go p.sessions.Serve(q)
	}
}

func (p *process) dialSession(ctx context.Context) (session.Conn, error) {
	return p.vsock.Dial(ctx, wire.AgentPort)
}

// prepare makes a request of the host's one of the guest's.
func (p *process) prepare(r *wire.Run) {
	if p.cfg.Guest.Isolated {
		r.Env = session.IsolatedEnv(r.Env)
		return
	}
	last := ""
	if p.cfg.Guest.Host != nil {
		last = guest.HostDir
	}
	r.Env = session.GuestEnv(r.Env, p.cfg.Links, last)
	if links := p.links.Load(); links != nil {
		r.Env = session.SetBrowser(r.Env, *links)
	}
}

// check refuses a Run that the guest could not understand.
func (p *process) check(r *wire.Run) *wire.Error {
	if r.CwdFallback || r.CwdNamed || r.Cwd == "/" {
		return nil
	}
	p.sharesMu.Lock()
	defer p.sharesMu.Unlock()
	for _, s := range p.shares {
		if r.Cwd == s.Path || strings.HasPrefix(r.Cwd, strings.TrimSuffix(s.Path, "/")+"/") {
			return nil
		}
	}
	e := &wire.Error{Code: 125, What: r.Cwd, Why: "this folder is not shared with distro " + p.cfg.Guest.Distro,
		Hint: "to share it: stile share " + r.Cwd}
	if p.cfg.Guest.Isolated {
		e.Why += ", which is isolated"
		e.Hint = "to share it, name it below [distro." + p.cfg.Guest.Distro + ".shares] in config.toml, or stile run --cd / to do without"
	}
	return e
}

// handle answers the supervisor's calls.
func (p *process) handle(ctx context.Context, name string, body []byte) (any, error) {
	switch name {
	case CallStart:
		var cfg Config
		if err := json.Unmarshal(body, &cfg); err != nil {
			return nil, err
		}
		return Started{Unconfined: p.unconfined}, p.start(ctx, cfg)
	case CallShare, CallUnshare:
		var s guest.Share
		if err := json.Unmarshal(body, &s); err != nil {
			return nil, err
		}
		if name == CallShare {
			if err := p.addShare(s); err != nil {
				return nil, err
			}
			return nil, p.ask(ctx, guest.CallMount, s, nil)
		}
		if err := p.ask(ctx, guest.CallUnmount, s, nil); err != nil {
			return nil, err
		}
		return nil, p.removeShare(s)
	case CallLinks:
		var links []string
		if err := json.Unmarshal(body, &links); err != nil {
			return nil, err
		}
		p.links.Store(&links)
		return nil, p.ask(ctx, guest.CallLinks, links, nil)
	case CallProcesses:
		var ps guest.Processes
		err := p.ask(ctx, guest.CallProcesses, nil, &ps)
		return ps, err
	case CallZone:
		var z guest.Zone
		if err := json.Unmarshal(body, &z); err != nil {
			return nil, err
		}
		return nil, p.ask(ctx, guest.CallZone, z, nil)
	case CallReclaim:
		var r guest.Reclaimed
		err := p.ask(ctx, guest.CallReclaim, nil, &r)
		return r, err
	case CallShutdown:
		return nil, p.ask(ctx, guest.CallShutdown, nil, nil)
	case CallImport:
		return nil, p.importTar(ctx)
	case CallCounts:
		c := p.machine.Counts()
		c.Goroutines = runtime.NumGoroutine()
		return c, nil
	case CallNotice:
		var e wire.Error
		if err := json.Unmarshal(body, &e); err != nil {
			return nil, err
		}
		p.sessions.Notice(&e)
		return nil, nil
	}
	return nil, errors.New("unknown call")
}

// guestLimit bounds each question to guestinit. It is shorter than the supervisor
// waits for its answer, so that its questions do not pile up here. An orderly
// shutdown takes longer: the supervisor, which bounds it, then ends us.
const (
	guestLimit    = 4 * time.Second
	shutdownLimit = 30 * time.Second
)

// ask makes a call of guestinit.
func (p *process) ask(ctx context.Context, name string, request, answer any) error {
	limit := guestLimit
	if name == guest.CallShutdown {
		limit = shutdownLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p.guestMu.Lock()
	defer p.guestMu.Unlock()
	if p.guest == nil {
		conn, err := p.dial(ctx, wire.Hello{Kind: wire.StreamCall})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.guest = call.NewClient(conn)
	}
	err := p.guest.Do(ctx, name, request, answer)
	// guestinit waits for this before it ends the machine, so that its answer is
	// not lost.
	last := name == guest.CallShutdown && err == nil
	if last || errors.Is(err, call.ErrNoAnswer) {
		p.guest.Close()
		p.guest = nil
	}
	return err
}

// dial opens a stream to guestinit and says hello.
func (p *process) dial(ctx context.Context, h wire.Hello) (*vsock.Conn, error) {
	select {
	case <-p.up:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	conn, err := p.vsock.Dial(ctx, wire.AgentPort)
	if err != nil {
		return nil, err
	}
	h.Version, h.Generation = wire.Version, p.cfg.Guest.Generation
	if _, err := conn.Write(wire.AppendMessage(nil, wire.TypeHello, h.Append(nil))); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
