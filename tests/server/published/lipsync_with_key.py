"""Contract C: ``lipsync_with_key.py BASE_URL KEY VIDEO AUDIO OUTPUT``."""

import base64
import sys
import time

import requests

BASE_URL, KEY, VIDEO, AUDIO, OUTPUT = sys.argv[1:]
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def encode(path):
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode("utf-8")


response = requests.post(
    f"{BASE_URL}/lipsync/submit",
    headers=HEADERS,
    json={
        "video_source": encode(VIDEO),
        "audio_source": encode(AUDIO),
        "inference_steps": 20,
        "guidance_scale": 2.0,
        "seed": 1247,
    },
    timeout=30,
)
if response.status_code != 200:
    sys.exit(response.json()["reason"])
request_id = response.json()["request_id"]

while True:
    response = requests.post(
        f"{BASE_URL}/lipsync/status", headers=HEADERS, json={"request_id": request_id}, timeout=30
    )
    result = response.json()
    if result["status"] == "InQueue":
        print("position", result["queue_position"])
    elif result["status"] == "InProgress":
        print("in progress")
    elif result["status"] == "Succeed":
        break
    else:
        sys.exit(result["reason"])
    time.sleep(0.1)

print("inference took", result["results"]["timings"]["inference"], "s")
for video in result["results"]["video"]:
    answer = requests.get(video["url"], timeout=30)
    answer.raise_for_status()
    with open(OUTPUT, "wb") as file:
        file.write(answer.content)
