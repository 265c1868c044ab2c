package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/gobwas/ws"
)

// A closeError is why a connection ends, as a close frame says it.
type closeError struct {
	code   ws.StatusCode // 0 is none
	reason string
}

func (e closeError) Error() string { return fmt.Sprintf("close %d: %s", e.code, e.reason) }

var (
	errStopping = closeError{ws.StatusGoingAway, "the server stops"}
	errTooSlow  = closeError{ws.StatusPolicyViolation, "too slow, the queue is full"}
	errTooLong  = closeError{ws.StatusMessageTooBig, "the message is too long"}
	errNotText  = closeError{ws.StatusUnsupportedData, "messages are text"}
	errNotUTF8  = closeError{ws.StatusInvalidFramePayloadData, "the message is not UTF-8"}
)

// readFrame reads a frame and unmasks it. What is wrong with the frame itself is a closeError.
func readFrame(r io.Reader, inMessage bool, limit int) (ws.Frame, error) {
	header, err := ws.ReadHeader(r)
	if errors.Is(err, ws.ErrHeaderLengthMSB) {
		return ws.Frame{}, closeError{ws.StatusProtocolError, err.Error()}
	}
	if err != nil {
		return ws.Frame{}, err
	}
	state := ws.StateServerSide
	if inMessage {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(header, state); err != nil {
		return ws.Frame{}, closeError{ws.StatusProtocolError, err.Error()}
	}
	if header.OpCode.IsData() && header.Length > int64(limit) {
		return ws.Frame{}, errTooLong
	}
	var payload bytes.Buffer // memory is taken as bytes come, not as announced
	if _, err := io.CopyN(&payload, r, header.Length); err != nil {
		return ws.Frame{}, err
	}
	ws.Cipher(payload.Bytes(), header.Mask, 0)
	return ws.Frame{Header: header, Payload: payload.Bytes()}, nil
}

// closing returns what to say to somebody who has sent a close frame: the same.
func closing(payload []byte) error {
	if len(payload) == 0 {
		return closeError{}
	}
	code, reason := ws.ParseCloseFrameData(payload)
	if err := ws.CheckCloseFrameData(code, reason); err != nil {
		return closeError{ws.StatusProtocolError, err.Error()}
	}
	return closeError{code, reason}
}

// closeFrame returns the close frame for a reason.
func closeFrame(why error) []byte {
	var e closeError
	if !errors.As(why, &e) {
		e = closeError{ws.StatusInternalServerError, "connection lost"} // nobody is left to read it, most likely
	}
	if e.code == 0 {
		return compile(ws.NewCloseFrame(nil))
	}
	return compile(ws.NewCloseFrame(ws.NewCloseFrameBody(e.code, e.reason)))
}

func textFrame(text string) []byte { return compile(ws.NewTextFrame([]byte(text))) }

// compile returns the bytes of a frame.
func compile(frame ws.Frame) []byte { return ws.MustCompileFrame(frame) }
