"""Contract B: ``queue_by_url.py BASE_URL VIDEO_URL AUDIO_URL OUTPUT``."""

import sys
import time

import requests

BASE_URL, VIDEO_URL, AUDIO_URL, OUTPUT = sys.argv[1:]

response = requests.post(
    f"{BASE_URL}/sync",
    json={
        "video_url": VIDEO_URL,
        "audio_url": AUDIO_URL,
        "inference_steps": 20,
        "guidance_scale": 1.0,
    },
    timeout=30,
)
response.raise_for_status()
task = response.json()
print("task", task["task_id"], "position", task["queue_position"])

queue = requests.get(f"{BASE_URL}/queue", timeout=30).json()
print("queue", queue["queue_length"], queue["is_processing"], queue["queued_tasks"])

while True:
    status = requests.get(f"{BASE_URL}/task/{task['task_id']}", timeout=30).json()
    print(status["status"], f"{status['progress']:.0%}", status["message"])
    if status["status"] == "completed":
        break
    if status["status"] == "failed":
        sys.exit(status["message"])
    time.sleep(0.1)

video = requests.get(BASE_URL + status["output_video_url"], timeout=30)
video.raise_for_status()
with open(OUTPUT, "wb") as file:
    file.write(video.content)
