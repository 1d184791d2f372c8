package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"undermesh.dev/interop/pb"
)

const language = "go"

type server struct {
	pb.UnimplementedInteropServer
	name      string
	calls     atomic.Int64
	cancelled atomic.Int64
}

// serve answers until SIGTERM, then lets calls finish and prints a summary.
func serve(bind string, port int, name string) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(bind, fmt.Sprint(port)))
	if err != nil {
		return err
	}
	s := &server{name: name}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(largest), grpc.MaxSendMsgSize(largest))
	pb.RegisterInteropServer(g, s)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		timer := time.AfterFunc(5*time.Second, g.Stop)
		g.GracefulStop()
		timer.Stop()
	}()
	fmt.Printf("{\"ready\":%d}\n", listener.Addr().(*net.TCPAddr).Port)
	if err := g.Serve(listener); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"name": name, "language": language, "calls": s.calls.Load(), "cancelled": s.cancelled.Load(),
	})
}

// begin echoes metadata and counts the call.
func (s *server) begin(ctx context.Context, setHeader, setTrailer func(metadata.MD)) {
	s.calls.Add(1)
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("x-interop-echo"); len(v) > 0 {
		setHeader(metadata.Pairs("x-interop-echo", v[0]))
	}
	if v := md.Get("x-interop-echo-bin"); len(v) > 0 {
		setTrailer(metadata.Pairs("x-interop-echo-bin", v[0]))
	}
}

func (s *server) reply(ctx context.Context, request *pb.Request, bytes uint64, messages uint32) *pb.Reply {
	reply := &pb.Reply{
		Payload: make([]byte, request.ReplyBytes), Pod: s.name, Language: language,
		ReceivedBytes: bytes, ReceivedMessages: messages,
	}
	if deadline, ok := ctx.Deadline(); ok {
		reply.DeadlineMs = uint64(max(time.Until(deadline).Milliseconds(), 1))
	}
	return reply
}

func failure(request *pb.Request) error {
	if request.FailCode == 0 {
		return nil
	}
	return status.Error(codes.Code(request.FailCode), request.FailMessage)
}

func wait(ctx context.Context, request *pb.Request) error {
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-time.After(time.Duration(request.DelayMs) * time.Millisecond):
		return nil
	}
}

func (s *server) Unary(ctx context.Context, request *pb.Request) (*pb.Reply, error) {
	s.begin(ctx, func(md metadata.MD) { _ = grpc.SetHeader(ctx, md) }, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) })
	if err := wait(ctx, request); err != nil {
		return nil, err
	}
	if err := failure(request); err != nil {
		return nil, err
	}
	return s.reply(ctx, request, uint64(len(request.Payload)), 1), nil
}

func (s *server) ServerStream(request *pb.Request, stream pb.Interop_ServerStreamServer) error {
	ctx := stream.Context()
	s.begin(ctx, func(md metadata.MD) { _ = stream.SetHeader(md) }, stream.SetTrailer)
	if err := wait(ctx, request); err != nil {
		return err
	}
	for range request.Replies {
		if err := stream.Send(s.reply(ctx, request, uint64(len(request.Payload)), 1)); err != nil {
			return err
		}
	}
	return failure(request)
}

func (s *server) ClientStream(stream pb.Interop_ClientStreamServer) error {
	ctx := stream.Context()
	s.begin(ctx, func(md metadata.MD) { _ = stream.SetHeader(md) }, stream.SetTrailer)
	last, bytes, messages := &pb.Request{}, uint64(0), uint32(0)
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		last, bytes, messages = request, bytes+uint64(len(request.Payload)), messages+1
	}
	if err := failure(last); err != nil {
		return err
	}
	return stream.SendAndClose(s.reply(ctx, last, bytes, messages))
}

func (s *server) BidiStream(stream pb.Interop_BidiStreamServer) error {
	ctx := stream.Context()
	s.begin(ctx, func(md metadata.MD) { _ = stream.SetHeader(md) }, stream.SetTrailer)
	defer func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			s.cancelled.Add(1)
		}
	}()
	bytes, messages := uint64(0), uint32(0)
	for {
		request, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		bytes, messages = bytes+uint64(len(request.Payload)), messages+1
		if err := wait(ctx, request); err != nil {
			return err
		}
		for range request.Replies {
			if err := stream.Send(s.reply(ctx, request, bytes, messages)); err != nil {
				return err
			}
		}
		if err := failure(request); err != nil {
			return err
		}
	}
}
