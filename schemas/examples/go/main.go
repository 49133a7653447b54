// A producer in Go: tokenizes a value and turns the token back, each request checked before it is sent, each reply
// before it is used.
//
//	echo -n grace@navy.example | go run . shop-frontend email
//
// Arguments are the client and the type (str, email, bytes as base64, int64 as decimal text); at a terminal it makes a
// value up. Exit status 1, and the code on standard error, for a reply that is an error.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const patience = 10 * time.Second

// Request and Reply hold what this program uses of request.schema.json and reply.schema.json; ../../contract.md tells
// how to generate all of it.
type Request struct {
	ID        string `json:"id"`
	Op        string `json:"op"`
	ClientID  string `json:"client_id"`
	Type      string `json:"type"`
	Value     string `json:"value"`
	ReplyTo   string `json:"reply_to"`
	ExpiresAt int64  `json:"expires_at"`
}

type Reply struct {
	Status string `json:"status"`
	Value  string `json:"value"` // an int32 would be a number
	Error  struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

type producer struct {
	streams        *redis.Client
	request, reply *jsonschema.Schema
}

func main() {
	flag.Parse()
	client, typeName := cmp.Or(flag.Arg(0), "demo-client"), cmp.Or(flag.Arg(1), "email")
	if err := run(context.Background(), client, typeName); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, client, typeName string) error {
	schemas := jsonschema.NewCompiler()
	p := producer{
		request: schemas.MustCompile("../../request.schema.json"),
		reply:   schemas.MustCompile("../../reply.schema.json"),
	}
	options, err := redis.ParseURL(cmp.Or(os.Getenv("TOKEN_WORKER_STREAMS_URL"), "redis://127.0.0.1:6379/0"))
	if err != nil {
		return errors.New("TOKEN_WORKER_STREAMS_URL is no address of a Redis") // err would quote its password
	}
	options.MaxRetries = -1 // an XADD sent twice is two requests
	p.streams = redis.NewClient(options)
	defer p.streams.Close()

	value, err := readValue()
	if err != nil {
		return err
	}
	token, err := p.ask(ctx, "tokenize", client, typeName, value)
	if err != nil {
		return err
	}
	fmt.Println(token)
	back, err := p.ask(ctx, "detokenize", client, typeName, token)
	if err == nil && back != value {
		err = errors.New("the token turned back into another value")
	}
	return err
}

// ask sends one request and waits for its reply, on a stream that only this request names.
func (p *producer) ask(ctx context.Context, op, client, typeName, value string) (string, error) {
	id := random()
	replies := op + ":responses:" + id
	now, err := p.streams.Time(ctx).Result() // not our own clock: workers go by that of the Redis
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(Request{id, op, client, typeName, value, replies, now.Add(patience).UnixMilli()})
	if err != nil {
		return "", err
	}
	if err := check(p.request, payload); err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	add := &redis.XAddArgs{Stream: op + ":requests", Values: []any{"payload", payload}}
	if err := p.streams.XAdd(ctx, add).Err(); err != nil {
		return "", err
	}
	// From 0: the reply may be there by now.
	read := &redis.XReadArgs{Streams: []string{replies, "0"}, Count: 1, Block: patience}
	found, err := p.streams.XRead(ctx, read).Result()
	if errors.Is(err, redis.Nil) {
		return "", errors.New("no reply in time")
	} else if err != nil {
		return "", err
	}
	answer := []byte(found[0].Messages[0].Values["payload"].(string))
	if err := check(p.reply, answer); err != nil {
		return "", fmt.Errorf("reply: %w", err)
	}
	var reply Reply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return "", err
	}
	if reply.Status != "ok" {
		return "", fmt.Errorf("%s: %s", reply.Error.Code, reply.Error.Message)
	}
	return reply.Value, nil
}

// check says where a message is not valid, and not how: the validator's own text would quote the value.
func check(schema *jsonschema.Schema, message []byte) error {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(message))
	if err != nil {
		return errors.New("not JSON")
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(schema.Validate(document), &invalid) {
		return nil
	}
	for len(invalid.Causes) > 0 {
		invalid = invalid.Causes[0]
	}
	return fmt.Errorf("not valid at /%s", path.Join(invalid.InstanceLocation...))
}

func readValue() (string, error) {
	if info, err := os.Stdin.Stat(); err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return random() + "@example.com", nil
	}
	value, err := io.ReadAll(os.Stdin)
	return strings.TrimSuffix(string(value), "\n"), err
}

func random() string {
	name := make([]byte, 12)
	if _, err := rand.Read(name); err != nil {
		panic(err)
	}
	return hex.EncodeToString(name)
}
