package kvm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stilehq/stile/vmm"
	"github.com/stilehq/stile/vmm/virtio/mmio"
)

// rawBase is where raw code lies, and is entered.
const rawBase = 0x100000

// A code is 32-bit machine code: a guest that does one thing, with no kernel.
type code []byte

func (c code) put(b ...byte) code      { return append(c, b...) }
func (c code) imm32(v uint32) code     { return binary.LittleEndian.AppendUint32(c, v) }
func (c code) store(at, v uint32) code { return c.put(0xc7, 0x05).imm32(at).imm32(v) } // mov dword [at], v
func (c code) load(at uint32) code     { return c.put(0xa1).imm32(at) }                // mov eax, [at]
func (c code) out(port uint16, v byte) code { // mov dx, port; mov al, v; out dx, al
	return c.put(0x66, 0xba, byte(port), byte(port>>8), 0xb0, v, 0xee)
}
func (c code) in(port uint16) code { return c.put(0x66, 0xba, byte(port), byte(port>>8), 0xed) } // in eax, dx
func (c code) end() code           { return c.out(portKeyboard, keyboardReset) }

// printIf prints yes on the serial port where EAX is want, and no elsewhere.
func (c code) printIf(want uint32, yes, no byte) code {
	c = c.put(0x3d).imm32(want) // cmp eax, want
	c = c.put(0xb0, yes)        // mov al, yes
	c = c.put(0x74, 0x02)       // je over the next
	c = c.put(0xb0, no)         // mov al, no
	return c.put(0x66, 0xba, portSerial&0xff, portSerial>>8, 0xee)
}

// times runs body n times: n below 2^32, body below 120 bytes.
func (c code) times(n uint32, body code) code {
	c = c.put(0xb9).imm32(n) // mov ecx, n
	c = append(c, body...)
	c = c.put(0x49)                             // dec ecx
	return c.put(0x75, byte(-3-int(len(body)))) // jnz to body
}

// rawKernel is an image of code, in a file.
func rawKernel(t *testing.T, c code) *os.File {
	t.Helper()
	note := binary.LittleEndian.AppendUint32(nil, 4)
	note = binary.LittleEndian.AppendUint32(note, 4)
	note = binary.LittleEndian.AppendUint32(note, 18)
	note = append(note, "Xen\x00"...)
	note = binary.LittleEndian.AppendUint32(note, rawBase)
	const headers = 64 + 2*56
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2})
	binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: headers,
		Filesz: uint64(len(note)), Memsz: uint64(len(note))})
	binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_LOAD), Off: headers + uint64(len(note)),
		Paddr: rawBase, Filesz: uint64(len(c)), Memsz: uint64(len(c))})
	b.Write(note)
	b.Write(c)
	f := memfd(t)
	if _, err := f.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	return f
}

// startRaw starts a guest of code. Its serial port's output, which is the
// console's, is the second result.
func startRaw(t *testing.T, c code) (*guest, *os.File) {
	t.Helper()
	g := startGuest(t, vmm.Config{Kernel: rawKernel(t, c), Memory: 4 << 20}, Engine{})
	return g, g.console
}

func readAll(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// One guest ends in each way that there is.
func TestRawEnds(t *testing.T) {
	needKVM(t)
	for _, c := range []struct {
		name, want string // a part of the error, "" for an end in order
		code       code
	}{
		{"keyboard reset", "", code{}.end()},
		{"another command to the keyboard", "", code{}.out(portKeyboard, 0xd1).end()},
		{"triple fault", "triple fault", code{0x0f, 0x0b}},                           // ud2, and no interrupt table
		{"code where no memory is", "internal error", code{0xe9}.imm32(0xc000_0000)}, // jmp
		{"status that does not exist", mmio.ErrDriver.Error(), code{}.store(deviceBase+0x70, 0x100).put(0xeb, 0xfe)},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaksNothing(t)
			g, _ := startRaw(t, c.code)
			err := g.wait()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
			if err := g.Kill(); err != nil {
				t.Errorf("Kill after the end: %v", err)
			}
			if err := g.Pause(); !errors.Is(err, ErrEnded) {
				t.Errorf("Pause after the end: %v", err)
			}
			if err := g.Resume(); !errors.Is(err, ErrEnded) {
				t.Errorf("Resume after the end: %v", err)
			}
		})
	}
}

// What costs an exit, and what does not.
func TestRawExits(t *testing.T) {
	needKVM(t)
	const n = 100
	kick := uint32(deviceBase + mmio.QueueNotify)
	ack := uint32(deviceBase + mmio.InterruptACK)
	for _, c := range []struct {
		name string
		code code
		pio  map[PIO]uint64 // besides the end's
		mmio map[MMIO]uint64
	}{
		{"register reads", code{}.times(n, code{}.load(deviceBase)), nil, nil},
		{"kicks", code{}.times(n, code{}.store(kick, 1)), nil, nil},
		{"acknowledgements", code{}.times(n, code{}.store(ack, mmio.AckUsed)), nil, nil},
		{"kicks of no queue", code{}.times(n, code{}.store(kick, 9)), nil,
			map[MMIO]uint64{{"virtio-console", mmio.QueueNotify, true}: n}},
		{"configuration acknowledged", code{}.times(n, code{}.store(ack, 3)), nil,
			map[MMIO]uint64{{"virtio-console", mmio.InterruptACK, true}: n}},
		{"no device", code{}.times(n, code{}.load(0xd800_0000).store(0xc000_0000, 0)), nil,
			map[MMIO]uint64{{"", 0, false}: n, {"", 0, true}: n}},
		{"ports", code{}.times(n, code{}.in(0x1234).out(portCMOSIndex, 0x0a)),
			map[PIO]uint64{{0x1234, false}: n, {portCMOSIndex, true}: n}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaksNothing(t)
			g, _ := startRaw(t, c.code.end())
			if err := g.wait(); err != nil {
				t.Fatal(err)
			}
			s := g.Stats()
			if s.PIO[PIO{portKeyboard, true}] != 1 {
				t.Errorf("end: %v", s.PIO)
			}
			delete(s.PIO, PIO{portKeyboard, true})
			if fmt.Sprint(s.PIO) != fmt.Sprint(c.pio) || fmt.Sprint(s.MMIO) != fmt.Sprint(c.mmio) {
				t.Errorf("port exits %v, want %v; register exits %v, want %v", s.PIO, c.pio, s.MMIO, c.mmio)
			}
			if s.Exits["pio"]+s.Exits["mmio"]+s.Exits["interrupted"] != s.Total() {
				t.Errorf("exits %v", s.Exits)
			}
		})
	}
}

// What the guest reads, it says on its serial port.
func TestRawReads(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	c := code{}.
		load(deviceBase).printIf(0x74726976, 'a', '-').   // the magic of a device
		load(deviceBase+4).printIf(2, 'b', '-').          // its version
		load(deviceBase+8).printIf(3, 'c', '-').          // a console
		load(0xd800_0000).printIf(0xffff_ffff, 'd', '-'). // nothing there
		in(0x1234).printIf(0xffff_ffff, 'e', '-').        // nor there
		put(0x31, 0xc0).out(portCMOSIndex, 0x8a).put(0xe4, portCMOSData, 0x25).imm32(0xff).printIf(0x26, 'f', '-').
		load(deviceBase+0x2000).printIf(0x74726976, 'g', '-'). // the third device
		out(portSerialLCR, 0x80).out(portSerial, 'x').out(portSerialLCR, 3).
		end()
	g, serial := startRaw(t, c)
	if err := g.wait(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, serial); got != "abcdefg" {
		t.Errorf("printed %q", got)
	}
}

// String instructions bring many accesses in one exit.
func TestRawStrings(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	const n = 5000
	c := code{0xbf}.imm32(0x200000).put(0xb9).imm32(n).put(0xb0, 'x', 0xfc, 0xf3, 0xaa)                            // n times x at 2 MiB
	c = c.put(0xbe).imm32(0x200000).put(0xb9).imm32(n).put(0x66, 0xba, portSerial&0xff, portSerial>>8, 0xf3, 0x6e) // rep outsb
	c = c.put(0xbf).imm32(0x200000).put(0xb9).imm32(n).put(0x66, 0xba, 0x34, 0x12, 0xf3, 0x6d)                     // rep insd
	g, serial := startRaw(t, c.load(0x200000+4*(n-1)).printIf(0xffff_ffff, 'y', 'n').end())
	if err := g.wait(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, serial); got != strings.Repeat("x", n)+"y" {
		t.Errorf("printed %d bytes, the end %q", len(got), got[max(0, len(got)-3):])
	}
}

// A guest that never exits, or does nothing else, ends when it is told to.
func TestRawKill(t *testing.T) {
	needKVM(t)
	for _, c := range []struct {
		name string
		code code
	}{
		{"loop", code{0xeb, 0xfe}},
		{"halted for ever", code{0xfa, 0xf4}},
		{"exits without end", code{}.in(0x1234).put(0xeb, 0xf9)},
	} {
		for _, when := range []time.Duration{0, 50 * time.Millisecond} {
			t.Run(fmt.Sprint(c.name, " after ", when), func(t *testing.T) {
				leaksNothing(t)
				g, _ := startRaw(t, c.code)
				time.Sleep(when)
				if err := g.Kill(); err != nil {
					t.Error(err)
				}
				if err := g.Wait(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Whatever a guest writes to the registers of all devices, it loses its machine
// at most.
func TestRawHostileRegisters(t *testing.T) {
	needKVM(t)
	random := rand.New(rand.NewPCG(1, 2))
	leaksNothing(t)
	ends := make(map[bool]int)
	for i := range 15 {
		var c code
		for range 2 << i % 10 {
			at := deviceBase + random.Uint32N(4*mmio.Size)
			if random.IntN(4) > 0 { // where registers are, most of the time
				at = deviceBase + random.Uint32N(3)*mmio.Size + random.Uint32N(0x110)&^3
			}
			v := random.Uint32()
			if random.IntN(2) == 0 {
				v = random.Uint32N(16)
			}
			switch random.IntN(6) {
			case 0:
				c = c.put(0xc6, 0x05).imm32(at).put(byte(v)) // mov byte
			case 1:
				c = c.put(0x66, 0xc7, 0x05).imm32(at).put(byte(v), byte(v>>8)) // mov word
			case 2:
				c = c.load(at)
			default:
				c = c.store(at, v)
			}
		}
		g, _ := startRaw(t, c.end())
		err := g.wait()
		if err != nil && !errors.Is(err, mmio.ErrDriver) && !strings.Contains(err.Error(), "virtio") {
			t.Errorf("guest %d: %v", i, err)
		}
		ends[err == nil]++
	}
	t.Logf("%d guests came to their end, %d lost a device before", ends[true], ends[false])
	if ends[false] == 0 || ends[true] == 0 {
		t.Error("the guests are all alike")
	}
}

// A guest of random bytes ends somehow, or goes on and is killed.
func TestRawRandomCode(t *testing.T) {
	needKVM(t)
	leaksNothing(t)
	random := rand.New(rand.NewPCG(3, 4))
	how := make(map[string]int)
	for range 40 {
		c := make(code, 4096)
		for i := range c {
			c[i] = byte(random.Uint32())
		}
		g, _ := startRaw(t, c)
		select {
		case <-g.done:
			what, _, _ := strings.Cut(fmt.Sprint(g.Wait()), ":")
			how[what]++
		case <-time.After(200 * time.Millisecond):
			how["goes on"]++
			g.Kill()
		}
	}
	t.Log(how)
}
