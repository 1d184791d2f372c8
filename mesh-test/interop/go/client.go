package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"undermesh.dev/interop/pb"
)

const failMessage = "näh: 100 % sure\nsecond line"

type client struct {
	conn  *grpc.ClientConn
	stub  pb.InteropClient
	large int
}

type result struct {
	Language string            `json:"language"`
	Target   string            `json:"target"`
	OK       bool              `json:"ok"`
	Cases    map[string]string `json:"cases"`
	Pods     map[string]int    `json:"pods"`
	Servers  map[string]int    `json:"servers"`
}

// call runs every case over one connection and prints the summary.
func call(target string, count, large int) (bool, error) {
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largest), grpc.MaxCallSendMsgSize(largest)))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	c := &client{conn: conn, stub: pb.NewInteropClient(conn), large: large}
	out := result{Language: language, Target: target, OK: true, Cases: map[string]string{}, Pods: map[string]int{}, Servers: map[string]int{}}
	for _, one := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"unary_sizes", c.unarySizes}, {"server_stream", c.serverStream}, {"client_stream", c.clientStream}, {"bidi_stream", c.bidiStream},
		{"metadata", c.metadata}, {"deadline_passed_on", c.deadlinePassedOn}, {"deadline_exceeded", c.deadlineExceeded},
		{"cancel", c.cancel}, {"status", c.status}, {"status_after_replies", c.statusAfterReplies}, {"unimplemented", c.unimplemented},
		{"spread", func(ctx context.Context) error {
			for range count {
				reply, err := c.stub.Unary(ctx, &pb.Request{Payload: make([]byte, 64), ReplyBytes: 64})
				if err != nil {
					return err
				}
				out.Pods[reply.Pod]++
				out.Servers[reply.Language]++
			}
			return nil
		}},
	} {
		// Every case has an end, whatever the network does.
		ctx, stop := context.WithTimeout(context.Background(), 60*time.Second)
		out.Cases[one.name] = "ok"
		if err := one.run(ctx); err != nil {
			out.Cases[one.name], out.OK = err.Error(), false
		}
		stop()
	}
	return out.OK, json.NewEncoder(os.Stdout).Encode(out)
}

func (c *client) unarySizes(ctx context.Context) error {
	for _, size := range []int{0, 1, 1000, 65_536, c.large} {
		reply, err := c.stub.Unary(ctx, &pb.Request{Payload: make([]byte, size), ReplyBytes: uint32(size)})
		if err != nil {
			return fmt.Errorf("%d bytes: %w", size, err)
		}
		if len(reply.Payload) != size || reply.ReceivedBytes != uint64(size) {
			return fmt.Errorf("%d bytes: server got %d, answered %d", size, reply.ReceivedBytes, len(reply.Payload))
		}
	}
	return nil
}

func (c *client) serverStream(ctx context.Context) error {
	for _, want := range []*pb.Request{{Replies: 0}, {Replies: 200, ReplyBytes: 128}, {Replies: 20, ReplyBytes: 65_536}, {Replies: 3, ReplyBytes: 0}} {
		stream, err := c.stub.ServerStream(ctx, want)
		if err != nil {
			return err
		}
		got := uint32(0)
		for {
			reply, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			if len(reply.Payload) != int(want.ReplyBytes) {
				return fmt.Errorf("reply of %d bytes, want %d", len(reply.Payload), want.ReplyBytes)
			}
			got++
		}
		if got != want.Replies {
			return fmt.Errorf("%d replies, want %d", got, want.Replies)
		}
	}
	return nil
}

func (c *client) clientStream(ctx context.Context) error {
	for _, messages := range []int{0, 1, 100} {
		stream, err := c.stub.ClientStream(ctx)
		if err != nil {
			return err
		}
		for range messages {
			if err := stream.Send(&pb.Request{Payload: make([]byte, 1000)}); err != nil {
				return err
			}
		}
		reply, err := stream.CloseAndRecv()
		if err != nil {
			return err
		}
		if reply.ReceivedMessages != uint32(messages) || reply.ReceivedBytes != uint64(messages*1000) {
			return fmt.Errorf("server got %d messages of %d", reply.ReceivedMessages, messages)
		}
	}
	return nil
}

func (c *client) bidiStream(ctx context.Context) error {
	stream, err := c.stub.BidiStream(ctx)
	if err != nil {
		return err
	}
	for i := range 20 {
		if err := stream.Send(&pb.Request{Payload: make([]byte, i), Replies: 2, ReplyBytes: uint32(i)}); err != nil {
			return err
		}
		for range 2 {
			reply, err := stream.Recv()
			if err != nil {
				return err
			}
			if len(reply.Payload) != i || reply.ReceivedMessages != uint32(i+1) {
				return fmt.Errorf("turn %d: reply of %d bytes after %d messages", i, len(reply.Payload), reply.ReceivedMessages)
			}
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("after half-close: %v", err)
	}
	return nil
}

func (c *client) metadata(ctx context.Context) error {
	binary := []byte{0, 1, 0xfe, 0xff}
	large := string(bytes.Repeat([]byte("m"), 6_000))
	ctx = metadata.AppendToOutgoingContext(ctx, "x-interop-echo", "hello", "x-interop-echo-bin", string(binary), "x-interop-large", large)
	var header, trailer metadata.MD
	reply, err := c.stub.Unary(ctx, &pb.Request{}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		return err
	}
	if reply.Language == "rust" { // tonic has no trailers beside a good status: its server sends both in the initial metadata.
		trailer = header
	}
	if v := header.Get("x-interop-echo"); len(v) != 1 || v[0] != "hello" {
		return fmt.Errorf("initial metadata %q", v)
	}
	if v := trailer.Get("x-interop-echo-bin"); len(v) != 1 || v[0] != string(binary) {
		return fmt.Errorf("trailing metadata %q", v)
	}
	return nil
}

func (c *client) deadlinePassedOn(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	reply, err := c.stub.Unary(ctx, &pb.Request{})
	if err != nil {
		return err
	}
	if reply.DeadlineMs == 0 || reply.DeadlineMs > 31_000 {
		return fmt.Errorf("server saw a deadline of %d ms, want 1 to 31000", reply.DeadlineMs)
	}
	return nil
}

func (c *client) deadlineExceeded(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	began := time.Now()
	_, err := c.stub.Unary(ctx, &pb.Request{DelayMs: 10_000})
	// A server's own timer may win the race: grpc-go resets the stream, tonic answers CANCELLED. Nobody else cancels here. A proxy may show that reset as UNAVAILABLE, as Envoy does.
	late := status.Code(err) == codes.DeadlineExceeded || status.Code(err) == codes.Canceled ||
		strings.Contains(fmt.Sprint(err), "remote reset CANCEL") ||
		strings.Contains(fmt.Sprint(err), "upstream request timeout")
	if !late || time.Since(began) > 3*time.Second {
		return fmt.Errorf("after %v: %v", time.Since(began), err)
	}
	return nil
}

func (c *client) cancel(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := c.stub.BidiStream(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.Request{Replies: 1}); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	// The server has something to do when the call is cancelled.
	if err := stream.Send(&pb.Request{Replies: 1, DelayMs: 3_000}); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		return fmt.Errorf("after cancel: %v", err)
	}
	return nil
}

func (c *client) status(ctx context.Context) error {
	_, err := c.stub.Unary(ctx, &pb.Request{FailCode: uint32(codes.FailedPrecondition), FailMessage: failMessage})
	return expect(err)
}

func (c *client) statusAfterReplies(ctx context.Context) error {
	stream, err := c.stub.ServerStream(ctx, &pb.Request{Replies: 3, ReplyBytes: 10, FailCode: uint32(codes.FailedPrecondition), FailMessage: failMessage})
	if err != nil {
		return err
	}
	for range 3 {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	_, err = stream.Recv()
	return expect(err)
}

func expect(err error) error {
	if s, _ := status.FromError(err); s.Code() != codes.FailedPrecondition || s.Message() != failMessage {
		return fmt.Errorf("want FAILED_PRECONDITION with its message, got %v", err)
	}
	return nil
}

func (c *client) unimplemented(ctx context.Context) error {
	err := c.conn.Invoke(ctx, "/undermesh.interop.v1.Interop/Missing", &pb.Request{}, &pb.Reply{})
	if status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("want UNIMPLEMENTED, got %v", err)
	}
	return nil
}
