"""Other teams' tools understand the contract: the official parser of AsyncAPI, and generators of types.

The commands are those of ``contract.md``, with the versions that stand here.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from harness.toolchains import JAVA_IN_SHORT, SharedFolders, go_environment, maven_jars, need_go, npm_install, run

SCHEMAS = Path(__file__).parents[2] / "schemas"
PACKAGES = {
    "@asyncapi/modelina": "5.10.1",
    "@asyncapi/parser": "3.6.6",
    "json-schema-to-typescript": "15.0.3",
    "quicktype": "23.3.25",
    "typescript": "5.9.3",
}
EXAMPLES = {
    name: json.loads((SCHEMAS / f"{name}.schema.json").read_text())["examples"] for name in ("request", "reply")
}
PARSE = """
import { Parser } from '@asyncapi/parser'
import { text } from 'node:stream/consumers'
const { document, diagnostics } = await new Parser().parse(await text(process.stdin))
const found = diagnostics.filter(it => it.severity <= 1).map(it => `${it.path.join('.')}: ${it.message}`)
console.log(JSON.stringify(document ? found : ['no document', ...found]))
"""
MODEL = """
import { TypeScriptGenerator } from '@asyncapi/modelina'
import { text } from 'node:stream/consumers'
const generator = new TypeScriptGenerator({ modelType: 'interface', enumType: 'union', rawPropertyNames: true })
const models = await generator.generateCompleteModels(JSON.parse(await text(process.stdin)), { exportType: 'named' })
console.log(models.map(it => it.result.replace(/^import .*$/gm, '')).join('\\n'))
"""
TYPES = """
import type { Request } from './request'
import type { Reply } from './reply'
export const requests: Request[] = REQUESTS
export const replies: Reply[] = REPLIES
export const code = (reply: Reply): string | undefined => reply.error?.code ?? reply.items?.[0]?.error?.code
const one = { id: 'r', type: 'str', value: 'x' } as const
export const good: Request = { ...one, op: 'tokenize' }
// @ts-expect-error an op that is none
export const otherOp: Request = { ...one, op: 'redact' }
// @ts-expect-error a member that is none
export const otherMember: Request = { ...one, op: 'tokenize', extra: 1 }
// @ts-expect-error without an id
export const noId: Request = { op: 'tokenize', type: 'str', value: 'x' }
// @ts-expect-error a value of no type that there is
export const otherValue: Request = { id: 'r', op: 'tokenize', type: 'str', value: { x: 1 } }
// @ts-expect-error an item without a type
export const noType: Request = { id: 'r', op: 'tokenize', items: [{ value: 'x' }] }
// @ts-expect-error a status that is none
export const otherStatus: Reply = { id: 'r', request_entry: '1-0', status: 'fine', value: 'x' }
// @ts-expect-error a code that is none
export const otherCode: Reply = { id: 'r', request_entry: '1-0', status: 'error', error: { code: 'x', message: 'm' } }
"""
GO = """package main

import (
	"bytes"
	"encoding/json"
	"os"

	"check/contract"
)

func main() {
	var given struct{ Request, Reply []json.RawMessage }
	must(json.NewDecoder(os.Stdin).Decode(&given))
	written := map[string][]any{}
	for _, message := range given.Request {
		written["request"] = append(written["request"], read[contract.Request](message))
	}
	for _, message := range given.Reply {
		written["reply"] = append(written["reply"], read[contract.Reply](message))
	}
	must(json.NewEncoder(os.Stdout).Encode(written))
}

func read[Message any](data []byte) *Message {
	var message Message
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	must(decoder.Decode(&message))
	return &message
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
"""
JAVA = """
import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.node.*;
import contract.*;

public class Check {
    public static void main(String[] arguments) throws Exception {
        ObjectMapper mapper = new ObjectMapper().setSerializationInclusion(JsonInclude.Include.NON_NULL);
        JsonNode given = mapper.readTree(System.in);
        ObjectNode written = mapper.createObjectNode();
        for (JsonNode message : given.get("request")) {
            written.withArray("request").add(mapper.valueToTree(mapper.treeToValue(message, Request.class)));
        }
        for (JsonNode message : given.get("reply")) {
            written.withArray("reply").add(mapper.valueToTree(mapper.treeToValue(message, Reply.class)));
        }
        System.out.println(mapper.writeValueAsString(written));
    }
}
"""
JACKSON = ("com.fasterxml.jackson.core", "jackson-databind", "2.18.2")


@pytest.fixture
def tools(shared_folders: SharedFolders) -> Path:
    """A folder with the packages installed."""
    return shared_folders.folder("contract-tools", lambda folder: npm_install(folder, PACKAGES))


def generate(tools: Path, folder: Path, kind: str) -> None:
    """Run the page's commands that write files of this kind, beside copies of the schemas."""
    page = (SCHEMAS / "contract.md").read_text()
    commands = [line.split() for line in re.findall(r"^\$ npx (.*)$", page, re.MULTILINE)]
    commands = [words for words in commands if any(word.endswith(kind) for word in words)]
    assert commands
    for name in EXAMPLES:
        shutil.copy(SCHEMAS / f"{name}.schema.json", folder)
    for package, *arguments in commands:
        command = {"json-schema-to-typescript": "json2ts"}.get(package, package)
        done = run([tools / "node_modules" / ".bin" / command, *arguments], folder)
        assert done.returncode == 0, done.stderr


def node(tools: Path, folder: Path, script: str, document: str) -> str:
    """Run a script with the document; returns its output."""
    (folder / "node_modules").symlink_to(tools / "node_modules")
    (folder / "script.mjs").write_text(script)
    done = run(["node", "script.mjs"], folder, value=document)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_typescript(tools: Path, folder: Path) -> None:
    """The types take every example, and refuse what is no message."""
    types = TYPES
    for name, messages in EXAMPLES.items():
        types = types.replace({"request": "REQUESTS", "reply": "REPLIES"}[name], json.dumps(messages))
    (folder / "check.ts").write_text(types)
    done = run([tools / "node_modules" / ".bin" / "tsc", "--noEmit", "--strict", "check.ts"], folder)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("is_broken", [False, True])
def test_asyncapi_parser_finds_nothing(tools: Path, tmp_path: Path, *, is_broken: bool) -> None:
    """The official parser finds neither an error nor anything to be warned about, unless there is something."""
    document = json.loads((SCHEMAS / "asyncapi.json").read_text())
    if is_broken:
        document["channels"]["tokenizeRequests"]["messages"]["request"]["$ref"] += "Missing"
    found = json.loads(node(tools, tmp_path, PARSE, json.dumps(document)))
    assert bool(found) is is_broken


def test_types_generated_from_asyncapi(tools: Path, tmp_path: Path) -> None:
    """AsyncAPI's own generator makes the messages with all their members, and no others."""
    models = node(tools, tmp_path, MODEL, (SCHEMAS / "asyncapi.json").read_text())
    assert "additionalProperties" not in models
    (tmp_path / "contract.ts").write_text(models)
    for name in ("Request", "Reply"):
        (tmp_path / f"{name.lower()}.ts").write_text(f"export type {{ {name} }} from './contract'")
    check_typescript(tools, tmp_path)


def test_generated_typescript_has_the_members(tools: Path, tmp_path: Path) -> None:
    """TypeScript types of the JSON Schemas are the messages: every member, and no others, as plain objects."""
    generate(tools, tmp_path, ".ts")
    check_typescript(tools, tmp_path)
    written = "".join((tmp_path / f"{schema}.ts").read_text() for schema in EXAMPLES)
    interfaces = re.findall(r"^export interface (\w+) {", written, re.MULTILINE)
    assert sorted(interfaces) == ["Reply", "ReplyError", "ReplyItem", "Request", "RequestItem"]


def test_generated_go_reads_and_writes_the_examples(tools: Path, tmp_path: Path) -> None:
    """Go types take every example and no member besides, and write each as it was, nothing lost or added."""
    need_go()
    package = tmp_path / "contract"
    package.mkdir()
    generate(tools, package, ".go")
    (tmp_path / "go.mod").write_text("module check\n\ngo 1.22\n")
    (tmp_path / "main.go").write_text(GO)
    done = run(["go", "run", "."], tmp_path, value=json.dumps(EXAMPLES), environment=go_environment())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == EXAMPLES


def test_generated_java_reads_and_writes_the_examples(tools: Path, tmp_path: Path) -> None:
    """Java types take every example and no member besides, and write each as it was, nothing lost or added."""
    jars = maven_jars(tmp_path, *JACKSON)
    package = tmp_path / "contract"
    package.mkdir()
    generate(tools, package, ".java")
    (tmp_path / "Check.java").write_text(JAVA)
    sources = [str(path.relative_to(tmp_path)) for path in [tmp_path / "Check.java", *package.glob("*.java")]]
    for_compiler = [f"-J{option}" for option in JAVA_IN_SHORT]
    done = run(["javac", *for_compiler, "-proc:none", "-cp", jars, "-d", "classes", *sources], tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(["java", *JAVA_IN_SHORT, "-cp", f"classes:{jars}", "Check"], tmp_path, value=json.dumps(EXAMPLES))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == EXAMPLES
