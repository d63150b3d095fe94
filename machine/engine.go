package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
	"github.com/stilehq/stile/vmm/kvm"
	"github.com/stilehq/stile/vmm/qemu"
)

// EngineVariable names the environment variable that overrides the configured
// engine for machines that are started with it.
const EngineVariable = "STILE_ENGINE"

// A Choice is the engine that a machine runs on, and why.
type Choice struct {
	Engine distro.Engine // kvm or qemu
	Why    string
}

// ChooseEngine decides what runs a machine: what was asked for, or kvm where it
// is usable. An engine that was asked for and can't be had is an error.
func ChooseEngine(dirs distro.Dirs, asked distro.Engine) (Choice, error) {
	by := "configured"
	if v := os.Getenv(EngineVariable); v != "" {
		if err := asked.UnmarshalText([]byte(v)); err != nil {
			return Choice{}, fmt.Errorf("%s: %w", EngineVariable, err)
		}
		by = EngineVariable + " says so"
	}
	if asked == distro.EngineQEMU {
		return qemuChoice(by)
	}
	r := KVMSupport(dirs)
	switch {
	case r.Support == kvm.Usable && asked == distro.EngineKVM:
		return Choice{distro.EngineKVM, by}, nil
	case r.Support == kvm.Usable:
		return Choice{distro.EngineKVM, r.Reason}, nil
	case asked == distro.EngineKVM:
		return Choice{}, &wire.Error{Code: 125, What: "engine kvm", Why: r.Reason, Hint: r.Hint}
	}
	return qemuChoice("KVM is not usable: " + r.Reason)
}

func qemuChoice(why string) (Choice, error) {
	if _, err := qemu.Find(); err != nil {
		return Choice{}, noQEMU(err)
	}
	return Choice{distro.EngineQEMU, why}, nil
}

// probed is what is kept of a probe until the next boot: a slow KVM stays slow.
type probed struct {
	Boot   string     `json:"boot"`
	Result kvm.Result `json:"result"`
}

// probeName is the file in the cache folder that holds it.
const probeName = "kvm-probe.json"

// KVMSupport is whether this host's KVM will do. The probe that takes time is
// made once a boot.
func KVMSupport(dirs distro.Dirs) kvm.Result {
	path := filepath.Join(dirs.Cache, probeName)
	boot := bootID()
	var kept probed
	if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &kept) == nil && kept.Boot == boot && boot != "" {
		f, err := os.OpenFile(kvm.Device, os.O_RDWR, 0)
		if err == nil {
			f.Close()
			return kept.Result
		}
	}
	r := kvm.Probe()
	if boot == "" || r.Support == kvm.NoDevice || r.Support == kvm.NoPermission {
		return r // found out at once, and changed by the user
	}
	// A cache that can't be written costs the next start some milliseconds.
	if b, err := json.Marshal(probed{boot, r}); err == nil && distro.Ensure(dirs.Cache) == nil {
		tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
		if errors.Join(os.WriteFile(tmp, b, 0o600), os.Rename(tmp, path)) != nil {
			os.Remove(tmp)
		}
	}
	return r
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
