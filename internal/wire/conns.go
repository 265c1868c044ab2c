package wire

import (
	"encoding/binary"
	"fmt"
)

// ConnRecord describes one live connection in Conns. The descriptors ride on the
// frame in the order of the records. The bytes of all records follow in Data
// frames: of each record first those that are to be read, then those to be sent.
type ConnRecord struct {
	Name          string
	Network       string // as the application asked for it
	Address       string
	ReadDeadline  int64 // nanoseconds since 1970; 0 is none
	WriteDeadline int64
	Unread        uint64 // how many bytes the next generation reads first
	Unsent        uint64 // and how many it sends first
	Flags         uint64
}

// ClosingFlag says that the writing side is to be shut down after Unsent.
const ClosingFlag = 1

// connRecordFields is how many fields a record has in this version.
const connRecordFields = 8

// AppendConns encodes records as the payload of Conns.
func AppendConns(b []byte, records []ConnRecord) []byte {
	b = binary.AppendUvarint(b, uint64(len(records)))
	for _, r := range records {
		b = binary.AppendUvarint(b, connRecordFields)
		for _, s := range []string{r.Name, r.Network, r.Address} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
		b = binary.AppendVarint(b, r.ReadDeadline)
		b = binary.AppendVarint(b, r.WriteDeadline)
		b = binary.AppendUvarint(b, r.Unread)
		b = binary.AppendUvarint(b, r.Unsent)
		b = binary.AppendUvarint(b, r.Flags)
	}
	return b
}

// DecodeConns decodes the payload of Conns.
func DecodeConns(b []byte) ([]ConnRecord, error) {
	d := decoder{b: b}
	count := d.uvarint()
	if count > MaxDescriptors {
		return nil, fmt.Errorf("%w: CONNS with %d records, the limit is %d", ErrMalformed, count, MaxDescriptors)
	}
	records := make([]ConnRecord, 0, count)
	for range count {
		fields := d.uvarint()
		r := ConnRecord{
			Name: d.string(), Network: d.string(), Address: d.string(),
			ReadDeadline: d.varint(), WriteDeadline: d.varint(),
			Unread: d.uvarint(), Unsent: d.uvarint(), Flags: d.uvarint(),
		}
		if d.bad || fields != connRecordFields {
			return nil, fmt.Errorf("%w: CONNS record %d", ErrMalformed, len(records))
		}
		records = append(records, r)
	}
	if d.bad || len(d.b) > 0 {
		return nil, fmt.Errorf("%w: CONNS with %d bytes too many", ErrMalformed, len(d.b))
	}
	return records, nil
}

// decoder reads numbers and strings; at the first that is not there it goes bad.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	d.skip(n)
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	d.skip(n)
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
	}
	if d.bad {
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad = true
		d.b = nil
		return
	}
	d.b = d.b[n:]
}
