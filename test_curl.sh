#!/usr/bin/env bash
# Post a video and speech to /predict with curl, save the answer as an MP4 and check that it plays.
# Needs curl and python3. The manual is CURL_TEST_GUIDE.md.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'TEXT'
Usage: LATENTSYNC_API_KEY=... ./test_curl.sh [options]

  --video FILE|URL    source video        (VIDEO,    default assets/demo_video.mp4)
  --audio FILE|URL    speech              (AUDIO,    default assets/demo_audio.wav)
  --endpoint URL      server or app       (ENDPOINT, default http://127.0.0.1:8000)
  --steps N           inference steps     (STEPS,    default 20)
  --guidance X        guidance scale      (GUIDANCE, default 1.5)
  --seed N            seed, -1 = random   (SEED,     default 1247)
  --output FILE       the finished MP4    (OUTPUT,   default output.mp4)
  --timeout SECONDS   longest wait        (TIMEOUT,  default 900)
  --help              this text

The key or token is LATENTSYNC_API_KEY; without it LATENTSYNC_TOKEN or CEREBRIUM_API_KEY is used.
TEXT
}

fail() {
  printf 'Error: %s\n' "$1" >&2
  exit 1
}

video=${VIDEO:-$here/assets/demo_video.mp4}
audio=${AUDIO:-$here/assets/demo_audio.wav}
endpoint=${ENDPOINT:-http://127.0.0.1:8000}
steps=${STEPS:-20}
guidance=${GUIDANCE:-1.5}
seed=${SEED:-1247}
output=${OUTPUT:-output.mp4}
timeout=${TIMEOUT:-900}

while (($#)); do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --video | --audio | --endpoint | --steps | --guidance | --seed | --output | --timeout)
      (($# > 1)) || fail "$1 needs a value."
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    *) fail "Unknown option $1. See --help." ;;
  esac
done

# Where several keys of a server are at hand, the first one will do.
token=${LATENTSYNC_API_KEY:-}
token=${token#"${token%%[!,[:space:]]*}"}
token=${token%%,*}
token=${token%"${token##*[![:space:]]}"}
source=LATENTSYNC_API_KEY
for name in LATENTSYNC_TOKEN CEREBRIUM_API_KEY; do
  [[ -n $token ]] && break
  source=$name token=${!name:-}
done
[[ -n $token ]] || fail "Set LATENTSYNC_API_KEY to the server's key, or CEREBRIUM_API_KEY to a token of Cerebrium."
for program in curl python3; do
  command -v "$program" >/dev/null || fail "$program is not installed."
done
endpoint=${endpoint%/}
[[ $endpoint == */predict ]] || endpoint=$endpoint/predict

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

# The payload and the token go through private files: neither fits or belongs on a command line.
printf 'Authorization: Bearer %s\n' "$token" >"$work/headers"

python3 - "$work/payload.json" "$video" "$audio" "$steps" "$guidance" "$seed" <<'PYTHON' || exit 1
import base64, json, sys

target, video, audio, steps, guidance, seed = sys.argv[1:]


def medium(name, given):
    if given.startswith(("http://", "https://")):
        return {name + "_url": given}
    try:
        with open(given, "rb") as file:
            return {name + "_base64": base64.b64encode(file.read()).decode("ascii")}
    except OSError as error:
        sys.exit(f"Error: {name} {given!r} cannot be read: {error.strerror}.")


def number(name, text, kind):
    try:
        return kind(text)
    except ValueError:
        sys.exit(f"Error: {name} is {text!r}, which is not a number.")


payload = {
    **medium("video", video),
    **medium("audio", audio),
    "inference_steps": number("--steps", steps, int),
    "guidance_scale": number("--guidance", guidance, float),
    "seed": number("--seed", seed, int),
}
with open(target, "w", encoding="ascii") as file:
    json.dump(payload, file)
PYTHON

status=$(
  # --location: Modal ends long requests with a 303 to the address of the result, to be asked by GET.
  curl --silent --show-error --max-time "$timeout" --location --max-redirs 20 \
    --header "Content-Type: application/json" --header "@$work/headers" \
    --data-binary "@$work/payload.json" \
    --output "$work/answer" --write-out '%{http_code}' "$endpoint" 2>"$work/curl_says"
) || fail "$endpoint did not answer: $(tail -n 1 "$work/curl_says")"

python3 - "$work/answer" "$status" "$output" "$source" <<'PYTHON'
import base64, json, os, struct, sys

answer_path, status, output, source = sys.argv[1:]


def fail(sentence):
    sys.exit("Error: " + " ".join(sentence.split()))


def read_answer():
    """Return the body as an object; bodies of proxies and platforms may be anything."""
    try:
        with open(answer_path, "rb") as file:
            body = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def refuse_error(body):
    result = body.get("result")
    inner = result if isinstance(result, dict) else {}
    said = inner if inner.get("status_code") else body
    number = str(said.get("status_code") or status)
    if status == "200" and not number.startswith(("4", "5")):
        return
    sentence = said.get("message") or said.get("detail") or said.get("error") or "no explanation"
    # The service's own errors with 403 have a code, and are not about the key.
    about_key = number == "401" or (number == "403" and not said.get("code"))
    refused = f"the key of {source} was refused: " if about_key else ""
    fail(f"{refused}HTTP {number} {said.get('code') or ''}: {sentence}")


def boxes(data, start, end):
    """Yield (type, first byte of the content, end) of the MP4 boxes in data[start:end]."""
    while start < end:
        try:
            size, kind = struct.unpack_from(">I4s", data, start)
            head = 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", data, start + 8)
                head = 16
        except struct.error:
            fail("the video is cut off inside a box header.")
        size = size or end - start
        if size < head or start + size > end:
            fail(f"the video is cut off inside its {kind.decode('latin-1')!r} box.")
        yield kind, start + head, start + size
        start += size


def inside(data, span, *path):
    """Return the spans of all boxes at this path below a box."""
    spans = [span]
    for wanted in path:
        spans = [(a, b) for s in spans for kind, a, b in boxes(data, *s) if kind == wanted]
    return spans


def track(data, span):
    """Return (handler, number of samples, bytes of all samples) of a trak box."""
    handler = data[inside(data, span, b"mdia", b"hdlr")[0][0] + 8 :][:4].decode("latin-1")
    start, _ = inside(data, span, b"mdia", b"minf", b"stbl", b"stsz")[0]
    each, count = struct.unpack(">II", data[start + 4 : start + 12])
    sizes = [each] * count if each else struct.unpack_from(f">{count}I", data, start + 12)
    return handler, count, sum(sizes)


def check_playable(data):
    """Follow the MP4's boxes: streams, samples, and as much media data as they promise."""
    if data[4:8] != b"ftyp":
        fail("the answer's video is not an MP4 file.")
    top = list(boxes(data, 0, len(data)))
    movies = [(a, b) for kind, a, b in top if kind == b"moov"]
    if not movies:
        fail("the video has no index (moov).")
    try:
        tracks = {t[0]: t for t in (track(data, s) for s in inside(data, movies[0], b"trak"))}
    except (IndexError, struct.error):
        fail("the video's index (moov) is damaged.")
    for handler, name in (("vide", "picture"), ("soun", "sound")):
        if not tracks.get(handler, ("", 0, 0))[1]:
            fail(f"the video has no {name}.")
    media_bytes = sum(b - a for kind, a, b in top if kind == b"mdat")
    if media_bytes < sum(size for _, _, size in tracks.values()):
        fail("the video holds less media data than its index promises.")
    return tracks["vide"][1]


body = read_answer()
refuse_error(body)
try:
    result = body["result"]
    video = base64.b64decode(result["video_base64"], validate=True)
    details = result["details"]
except (KeyError, TypeError, ValueError):
    fail("the answer holds no video in .result.video_base64.")
frames = check_playable(video)
try:
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    with open(output, "wb") as file:
        file.write(video)
except OSError as error:
    fail(f"{output!r} cannot be written: {error.strerror}.")
seconds = float(body.get("run_time_ms") or 0) / 1000
print(f"OK: {output} ({frames} frames with sound, {len(video)} bytes) in {seconds:.1f} s on the server")
print(f"details: {json.dumps(details)}")
PYTHON
