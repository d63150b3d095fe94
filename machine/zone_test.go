package machine

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stilehq/stile/interop/guest"
	"github.com/stilehq/stile/interop/session"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/machine/vmmproc"
)

func TestHostZone(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/localtime"
	if z := hostZone(path); z.Name != "" || len(z.Data) > 0 {
		t.Errorf("a host without the file has %+v", z)
	}
	zone := dir + "/zoneinfo/Europe/Berlin"
	if err := os.MkdirAll(filepath.Dir(zone), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{zone, path} {
		if err := os.WriteFile(f, []byte("TZif"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if z := hostZone(path); z.Name != "" || string(z.Data) != "TZif" {
		t.Errorf("a file is %+v", z)
	}
	os.Remove(path)
	if err := os.Symlink(zone, path); err != nil {
		t.Fatal(err)
	}
	if z := hostZone(path); z.Name != "Europe/Berlin" || string(z.Data) != "TZif" {
		t.Errorf("a link is %+v", z)
	}
	if err := os.Truncate(zone, maxZone); err != nil {
		t.Fatal(err)
	}
	if z := hostZone(path); z.Name != "Europe/Berlin" || z.Data != nil {
		t.Errorf("what is too long comes as %d bytes", len(z.Data))
	}
}

// A guest is told where the host's zone has changed, before the next command and
// only then.
func TestZoneIsFollowed(t *testing.T) {
	var mu sync.Mutex
	var told []string
	b := newBench(t, time.Hour, func(_ context.Context, name string, body []byte) (any, error) {
		var z guest.Zone
		if name == vmmproc.CallZone {
			if err := json.Unmarshal(body, &z); err != nil {
				return nil, err
			}
			mu.Lock()
			told = append(told, z.Name)
			mu.Unlock()
		}
		return nil, nil
	})
	path := t.TempDir() + "/localtime"
	b.zone = watchZone(path)
	b.event(t, vmmproc.EventReady, vmmproc.Ready{Kernel: "7.3"})
	for _, step := range []struct {
		zone string
		want []string
	}{
		{"", nil},
		{"Asia/Tokyo", []string{"Asia/Tokyo"}},
		{"Asia/Tokyo", []string{"Asia/Tokyo"}},
		{"Europe/Berlin", []string{"Asia/Tokyo", "Europe/Berlin"}},
	} {
		if step.zone != "" {
			os.Remove(path)
			if err := os.Symlink("/nowhere/zoneinfo/"+step.zone, path); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := net.Dial("unix", filepath.Join(b.home, "s"))
		if err != nil {
			t.Fatal(err)
		}
		run := wire.Run{Argv: []string{"x"}}
		conn.Write(wire.AppendMessage(nil, wire.TypeRun, run.Append(nil)))
		b.serve.SetReadDeadline(time.Now().Add(20 * time.Second))
		q, err := session.Accept(b.serve)
		if err != nil {
			t.Fatal(err)
		}
		q.Close()
		conn.Close()
		mu.Lock()
		if !slices.Equal(told, step.want) {
			t.Errorf("before a command in %q the guest was told %q, want %q", step.zone, told, step.want)
		}
		mu.Unlock()
	}
}
