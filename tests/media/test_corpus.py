"""Valid files of every kind are taken: right pictures, right sound, right length.

Each row is a file that FFmpeg plays: container x codec x way of writing (``tests.media.corpus``).
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from latentsync.formats import SAMPLE_RATE
from latentsync.media.probe import VideoInfo, probe_audio, probe_video
from latentsync.media.reader import VideoReader
from latentsync.media.sound import read_waveform
from latentsync.settings import Settings
from tests.media.corpus import (
    AV1_COPY,
    GROWING,
    LENGTH_S,
    PIPE,
    TONE_FROM_S,
    TONE_HZ,
    TONE_UNTIL_S,
    Clip,
    Pictures,
    Sound,
    write,
)
from tests.media.edits import (
    au_of_unknown_size,
    avi_of_unknown_sizes,
    flac_of_unknown_length,
    id3_tag_first,
    mp4_of_unknown_mdat,
    ogg_without_last_page,
    wav_chunk_after,
    wav_chunk_before,
    wav_counting_the_pad,
    wav_odd_chunk_before,
    wav_sizes,
)
from tests.media.makers import read_number
from tests.media.tracks import chapters, cover, data_track, subrip, text_track, timecode

# Codecs of pictures
H264 = Pictures("libx264", "preset=ultrafast crf=10 bf=2")
H264_NO_B = Pictures("libx264", "preset=ultrafast crf=10 bf=0")
H264_422 = Pictures("libx264", "preset=ultrafast crf=10 bf=2", "yuv422p")
H264_444 = Pictures("libx264", "preset=ultrafast crf=10", "yuv444p")
H264_10 = Pictures("libx264", "preset=ultrafast crf=10 bf=2", "yuv420p10le")
H264_RGB = Pictures("libx264rgb", "preset=ultrafast crf=10", "rgb24")
H264_INTRA = Pictures("libx264", "preset=ultrafast crf=10", gop=1)
H264_FIELDS = Pictures("libx264", "preset=ultrafast crf=10 x264-params=tff=1", size=(64, 96))
H264_OPEN_GOP = Pictures("libx264", "preset=fast crf=10 bf=3 x264-params=open-gop=1:b-pyramid=2")
HEVC = Pictures("libx265", "preset=ultrafast x265-params=log-level=none:bframes=2")
HEVC_APPLE = Pictures("libx265", "preset=ultrafast x265-params=log-level=none", tag="hvc1")
HEVC_10 = Pictures("libx265", "preset=ultrafast x265-params=log-level=none", "yuv420p10le")
AV1 = Pictures(AV1_COPY)
VP8 = Pictures("libvpx", "deadline=realtime cpu-used=8 crf=4 b=2M")
VP8_ALT = Pictures("libvpx", "auto-alt-ref=1 lag-in-frames=8 crf=4 b=2M")
VP9 = Pictures("libvpx-vp9", "deadline=realtime cpu-used=8 crf=10 b=2M")
VP9_ALT = Pictures("libvpx-vp9", "auto-alt-ref=1 lag-in-frames=8 cpu-used=8 crf=10 b=2M")
VP9_444 = Pictures("libvpx-vp9", "deadline=realtime cpu-used=8 crf=10 b=2M", "yuv444p")
MPEG1 = Pictures("mpeg1video", "bf=2 qmax=4")
MPEG2 = Pictures("mpeg2video", "bf=2 qmax=4")
MPEG2_422 = Pictures("mpeg2video", "qmax=4", "yuv422p")
MPEG4 = Pictures("mpeg4", "qmax=4")
MPEG4_B = Pictures("mpeg4", "bf=2 qmax=4")
DIVX3 = Pictures("msmpeg4", "qmax=4")
MJPEG = Pictures("mjpeg", "qmax=4", "yuvj420p")
PRORES = Pictures("prores_ks", pix_fmt="yuv422p10le")
PRORES_4444 = Pictures("prores_ks", pix_fmt="yuva444p10le")
DNXHR = Pictures("dnxhd", "profile=dnxhr_lb", "yuv422p", size=(256, 120))
CINEFORM = Pictures("cfhd", pix_fmt="yuv422p10le")
JPEG2000 = Pictures("jpeg2000", pix_fmt="rgb24")
V210 = Pictures("v210", pix_fmt="yuv422p10le")
FFV1 = Pictures("ffv1")
FFV1_10 = Pictures("ffv1", "level=3 slices=4", "yuv422p10le")
RAW = Pictures("rawvideo")
RAW_RGB = Pictures("rawvideo", pix_fmt="bgr24")
QTRLE = Pictures("qtrle", pix_fmt="rgb24")
PNG = Pictures("png", pix_fmt="rgb24")
HUFFYUV = Pictures("huffyuv", pix_fmt="yuv422p")
UTVIDEO = Pictures("utvideo", pix_fmt="yuv422p")
ZMBV = Pictures("zmbv", pix_fmt="bgr0")
CINEPAK = Pictures("cinepak", pix_fmt="rgb24")
WMV1 = Pictures("wmv1", "qmax=4")
WMV2 = Pictures("wmv2", "qmax=4")
FLV1 = Pictures("flv", "qmax=4")
FLASHSV = Pictures("flashsv", pix_fmt="bgr24")
H263 = Pictures("h263", "qmax=4", size=(128, 96), fps=Fraction(30000, 1001), num_frames=24)
GIF = Pictures("gif", pix_fmt="rgb8")
APNG = Pictures("apng", pix_fmt="rgb24")
DV = Pictures("dvvideo", size=(720, 576), num_frames=16)

# Rates
H264_1_FPS = Pictures("libx264", "preset=ultrafast crf=10", fps=1, num_frames=3)
H264_24 = Pictures("libx264", "preset=ultrafast crf=10 bf=2", fps=Fraction(24000, 1001))
H264_60 = Pictures("libx264", "preset=ultrafast crf=10 bf=2", fps=60, num_frames=48)
H264_120 = Pictures("libx264", "preset=ultrafast crf=10 bf=2", fps=120, num_frames=96)
H264_240 = Pictures("libx264", "preset=ultrafast crf=10 bf=2", fps=240, num_frames=192)
MPEG4_120 = Pictures("mpeg4", "qmax=4", fps=120, num_frames=96)
_SCREEN_MS = (0, 16, 33, 50, 200, 216, 233, 400, 600, 616, 640, 700, 780)  # moves, rests, moves
H264_SCREEN = Pictures("libx264", "preset=ultrafast crf=10 bf=0", stamps_ms=_SCREEN_MS)
H264_SCREEN_B = Pictures("libx264", "preset=ultrafast crf=10 bf=2", stamps_ms=_SCREEN_MS)
VP8_SCREEN = Pictures("libvpx", "deadline=realtime cpu-used=8 crf=4 b=2M", stamps_ms=_SCREEN_MS)
GIF_SCREEN = Pictures("gif", pix_fmt="rgb8", stamps_ms=(0, 100, 200, 400, 500, 700, 800))

# Codecs of sound; the padding is up to two blocks
AAC = Sound("aac", padding_ms=43)
AAC_STEREO = Sound("aac", 44_100, "stereo", padding_ms=47)
MP3 = Sound("libmp3lame", 44_100, padding_ms=53)
MP3_STEREO = Sound("libmp3lame", 44_100, "stereo", padding_ms=53)
MP3_VBR = Sound("libmp3lame", 44_100, "stereo", "flags=+qscale global_quality=472", padding_ms=53)
MP3_16K = Sound("libmp3lame", 16_000, padding_ms=72)
OPUS = Sound("libopus", padding_ms=40)
OPUS_STEREO = Sound("libopus", layout="stereo", padding_ms=40)
OPUS_60MS = Sound("libopus", options="frame_duration=60", padding_ms=120)
VORBIS = Sound("vorbis", layout="stereo", options="strict=-2", padding_ms=43)
FLAC = Sound("flac")
FLAC_24 = Sound("flac", 96_000, "stereo", "bits_per_raw_sample=24")
ALAC = Sound("alac", 44_100, "stereo", padding_ms=40)
AC3 = Sound("ac3", padding_ms=64)
AC3_5_1 = Sound("ac3", layout="5.1", padding_ms=64)
EAC3 = Sound("eac3", padding_ms=64)
MP2 = Sound("mp2", padding_ms=48)
WMA1 = Sound("wmav1", 44_100, padding_ms=93, bit_rate=96_000)
WMA2 = Sound("wmav2", 44_100, padding_ms=93, bit_rate=96_000)
AMR = Sound("libopencore_amrnb", 8_000, padding_ms=40, bit_rate=12_200)
TTA = Sound("tta")
WAVPACK = Sound("wavpack", 44_100, "stereo")
NELLYMOSER = Sound("nellymoser", 22_050, padding_ms=24)
PCM = Sound("pcm_s16le")
PCM_BE = Sound("pcm_s16be")
PCM_16K = Sound("pcm_s16le", 16_000)
PCM_STEREO = Sound("pcm_s16le", 44_100, "stereo")
PCM_5_1 = Sound("pcm_s16le", layout="5.1")
PCM_384K = Sound("pcm_s32le", 384_000, "stereo")
PCM_8 = Sound("pcm_u8", 11_025)
PCM_S8 = Sound("pcm_s8", 11_025)
PCM_24 = Sound("pcm_s24le")
PCM_24_BE = Sound("pcm_s24be")
PCM_32 = Sound("pcm_s32le")
PCM_F32 = Sound("pcm_f32le")
PCM_F32_BE = Sound("pcm_f32be")
PCM_F64 = Sound("pcm_f64le")
PCM_F64_BE = Sound("pcm_f64be")
ALAW = Sound("pcm_alaw", 8_000)
MULAW = Sound("pcm_mulaw", 8_000)
ADPCM_MS = Sound("adpcm_ms", 22_050, padding_ms=50)
ADPCM_IMA = Sound("adpcm_ima_wav", 22_050, padding_ms=50)
ADPCM_QT = Sound("adpcm_ima_qt", 44_100, padding_ms=3)
ADPCM_FLASH = Sound("adpcm_swf", 22_050, padding_ms=190)

_FRAGMENTS = "movflags=empty_moov+default_base_moof+frag_keyframe"
_DELAYED = "movflags=delay_moov+default_base_moof+frag_keyframe"
_SHORT_CLUSTERS = "cluster_time_limit=100"

_XING_DELAY_MS = 25.0  # LAME's delay and the decoder's: 1,105 samples at 44.1 kHz
_AAC_DELAY_MS = 21.3  # one block of 1,024 samples
_WMA_DELAY_MS = -46.4  # the decoder drops the first block of 2,048 samples
_AMR_DELAY_MS = 10

CLIPS = [
    # MP4 and its relatives
    Clip("mp4", "mp4", H264, AAC),
    Clip("mp4 without B-frames", "mp4", H264_NO_B, AAC_STEREO),
    Clip("mp4 faststart", "mp4", H264, AAC, "movflags=faststart"),
    Clip("mp4 without edit list", "mp4", H264, AAC, "use_editlist=0"),
    Clip("mp4 negative cts", "mp4", H264, AAC, "movflags=negative_cts_offsets"),
    Clip("mp4 fragments", "mp4", H264, AAC, _FRAGMENTS),
    Clip("mp4 fragments, pipe", "mp4", H264, AAC, _FRAGMENTS, PIPE),
    Clip("mp4 fragments, growing", "mp4", H264, None, _FRAGMENTS, GROWING),
    Clip("mp4 fragments without mfra", "mp4", H264, AAC, _FRAGMENTS + "+skip_trailer"),
    Clip("mp4 fragments, sidx", "mp4", H264, AAC, _FRAGMENTS + "+dash"),
    Clip("mp4 fragments, global sidx", "mp4", H264, AAC, _FRAGMENTS + "+global_sidx"),
    Clip("mp4 fragments, CMAF", "mp4", H264, None, _FRAGMENTS + "+cmaf+negative_cts_offsets", PIPE),
    Clip("mp4 frag_keyframe, moov first", "mp4", H264, AAC, "movflags=frag_keyframe"),
    Clip("mp4 frag_every_frame, pipe", "mp4", H264, None, _FRAGMENTS + "+frag_every_frame", PIPE),
    Clip("mp4 delay_moov, pipe", "mp4", H264, AAC, _DELAYED, PIPE),
    Clip(
        "mp4 delay_moov, negative cts",
        "mp4",
        H264,
        AAC,
        _DELAYED + "+negative_cts_offsets",
        delay_ms=-40,
    ),
    Clip("mp4 hybrid fragments", "mp4", H264, AAC, "movflags=hybrid_fragmented+frag_keyframe"),
    Clip("mp4 hybrid, growing", "mp4", H264, None, "movflags=hybrid_fragmented", GROWING),
    Clip("mp4 mdat to the end", "mp4", H264, AAC, "movflags=faststart", edit=mp4_of_unknown_mdat),
    Clip("mp4 4:2:2", "mp4", H264_422),
    Clip("mp4 4:4:4", "mp4", H264_444),
    Clip("mp4 10 bits", "mp4", H264_10),
    Clip("mp4 RGB", "mp4", H264_RGB),
    Clip("mp4 intra", "mp4", H264_INTRA),
    Clip("mp4 interlaced", "mp4", H264_FIELDS),
    Clip("mp4 open GOP", "mp4", H264_OPEN_GOP, AAC),
    Clip("mp4 HEVC", "mp4", HEVC, AAC),
    Clip("mp4 HEVC hvc1", "mp4", HEVC_APPLE, AAC),
    Clip("mp4 HEVC 10 bits fragments, pipe", "mp4", HEVC_10, None, _FRAGMENTS, PIPE),
    Clip("mp4 AV1, Opus", "mp4", AV1, OPUS),
    Clip("mp4 VP9, Opus", "mp4", VP9, OPUS),
    Clip("mp4 VP9 fragments, pipe", "mp4", VP9, OPUS, _FRAGMENTS, PIPE),
    Clip("mp4 MPEG-4", "mp4", MPEG4_B, MP3),
    Clip("mp4 MPEG-2", "mp4", MPEG2, MP2),
    Clip("mp4 MJPEG", "mp4", MJPEG, FLAC),
    Clip("mp4 ALAC", "mp4", H264, ALAC),
    Clip("mp4 AC-3", "mp4", H264, AC3_5_1),
    Clip("mp4 E-AC-3", "mp4", H264, EAC3),
    Clip("mp4 Vorbis", "mp4", H264, VORBIS),
    Clip("mp4 PCM", "mp4", H264, PCM_24),
    Clip("m4v", "ipod", H264, AAC, suffix="m4v"),
    Clip("f4v", "f4v", H264, AAC),
    Clip("ismv", "ismv", H264, AAC, delay_ms=-19),
    Clip("ismv, pipe", "ismv", H264, AAC, way=PIPE, delay_ms=-19),
    Clip("psp", "psp", H264, AAC),
    Clip("3gp H.264, AAC", "3gp", H264_NO_B, AAC),
    Clip("3gp H.263, AMR", "3gp", H263, AMR),
    Clip("3gp MPEG-4, AMR", "3gp", MPEG4, AMR),
    Clip("3g2", "3g2", H264_NO_B, AAC),
    Clip("mov", "mov", H264, PCM),
    Clip("mov fragments, pipe", "mov", H264, PCM_BE, _FRAGMENTS, PIPE, delay_ms=-80),
    Clip("mov faststart", "mov", H264, AAC, "movflags=faststart"),
    Clip("mov HEVC", "mov", HEVC_APPLE, AAC),
    Clip("mov MPEG-4", "mov", MPEG4, ADPCM_QT),
    Clip("mov MJPEG", "mov", MJPEG, ALAW),
    Clip("mov ProRes", "mov", PRORES, PCM_24),
    Clip("mov ProRes 4444", "mov", PRORES_4444),
    Clip("mov DNxHR", "mov", DNXHR, PCM_24),
    Clip("mov CineForm", "mov", CINEFORM),
    Clip("mov JPEG 2000", "mov", JPEG2000),
    Clip("mov v210", "mov", V210),
    Clip("mov QuickTime RLE", "mov", QTRLE, ALAC),
    Clip("mov PNG", "mov", PNG, PCM_F32),
    Clip("mov Cinepak", "mov", CINEPAK, PCM_8),
    Clip("mov DV", "mov", DV),
    # Matroska and WebM
    Clip("mkv", "matroska", H264, AAC),
    Clip("mkv, pipe", "matroska", H264, AAC, way=PIPE),
    Clip("mkv, growing", "matroska", H264, None, _SHORT_CLUSTERS, GROWING),
    Clip("mkv live", "matroska", H264, OPUS, "live=1", PIPE),
    Clip("mkv index first", "matroska", H264, AAC, "cues_to_front=1"),
    Clip("mkv short clusters", "matroska", H264, AAC, _SHORT_CLUSTERS),
    Clip("mkv small clusters, pipe", "matroska", H264, AAC, "cluster_size_limit=2000", PIPE),
    Clip("mkv HEVC", "matroska", HEVC, AC3),
    Clip("mkv AV1", "matroska", AV1, OPUS),
    Clip("mkv VP8", "matroska", VP8, VORBIS),
    Clip("mkv MPEG-2", "matroska", MPEG2, MP2),
    Clip("mkv MPEG-4", "matroska", MPEG4_B, MP3),
    Clip("mkv MJPEG, pipe", "matroska", MJPEG, PCM, way=PIPE),
    Clip("mkv ProRes", "matroska", PRORES, PCM_24),
    Clip("mkv FFV1", "matroska", FFV1, FLAC),
    Clip("mkv FFV1 10 bits", "matroska", FFV1_10, WAVPACK),
    Clip("mkv raw", "matroska", RAW, PCM_F32),
    Clip("mkv Opus", "matroska", H264_444, OPUS_STEREO),
    Clip("mkv ALAC", "matroska", H264_10, ALAC),
    Clip("mkv TTA", "matroska", H264, TTA),
    Clip("webm VP8", "webm", VP8, OPUS),
    Clip("webm VP8, Vorbis", "webm", VP8_ALT, VORBIS),
    Clip("webm VP9", "webm", VP9, OPUS_STEREO),
    Clip("webm VP9 hidden frames", "webm", VP9_ALT, OPUS),
    Clip("webm VP9 4:4:4", "webm", VP9_444),
    Clip("webm AV1", "webm", AV1, OPUS),
    Clip("webm MediaRecorder VP8", "webm", VP8, OPUS, "live=1", PIPE),
    Clip("webm MediaRecorder VP9", "webm", VP9, OPUS, "live=1 cluster_time_limit=100", PIPE),
    Clip("webm MediaRecorder, screen", "webm", VP8_SCREEN, OPUS, "live=1", PIPE),
    Clip("webm, pipe", "webm", VP9, OPUS, way=PIPE),
    Clip("webm, growing", "webm", VP8, None, _SHORT_CLUSTERS, GROWING),
    Clip("webm dash", "webm", VP9, None, "dash=1"),
    # AVI
    Clip("avi MPEG-4", "avi", MPEG4, PCM),
    Clip("avi MPEG-4, pipe", "avi", MPEG4, PCM, way=PIPE),
    Clip("avi MPEG-4, growing", "avi", MPEG4, None, "", GROWING),
    Clip("avi sizes unknown", "avi", MPEG4, PCM, edit=avi_of_unknown_sizes),
    Clip("avi MPEG-4 B-frames", "avi", MPEG4_B, MP3, delay_ms=_XING_DELAY_MS),
    Clip("avi H.264", "avi", H264_NO_B, AC3),
    Clip("avi H.264 B-frames", "avi", H264, PCM),
    Clip("avi H.264 B-frames, pipe", "avi", H264, PCM, way=PIPE),
    Clip("avi DivX 3", "avi", DIVX3, PCM),
    Clip("avi MJPEG", "avi", MJPEG, PCM_8),
    Clip("avi MJPEG, pipe", "avi", MJPEG, ADPCM_MS, way=PIPE),
    Clip("avi raw", "avi", RAW, PCM),
    Clip("avi raw RGB", "avi", RAW_RGB, PCM),
    Clip("avi FFV1", "avi", FFV1, PCM_24),
    Clip("avi HuffYUV", "avi", HUFFYUV, ALAW),
    Clip("avi Ut Video", "avi", UTVIDEO, PCM_STEREO),
    Clip("avi ZMBV", "avi", ZMBV, PCM),
    Clip("avi Cinepak", "avi", CINEPAK, ADPCM_IMA),
    Clip("avi MPEG-2", "avi", MPEG2, MP2, delay_ms=10),
    Clip("avi WMV 2", "avi", WMV2, PCM),
    Clip("avi DV", "avi", DV, PCM),
    # Transport and program streams, elementary streams
    Clip("ts", "mpegts", H264, AAC),
    Clip("ts, pipe", "mpegts", H264, AAC, way=PIPE),
    Clip("ts, growing", "mpegts", H264, None, way=GROWING),
    Clip("ts from zero", "mpegts", H264, AAC, "mpegts_copyts=1"),
    Clip("ts late tables", "mpegts", H264, AAC, "pat_period=0.5 mpegts_flags=+resend_headers"),
    Clip("ts HEVC", "mpegts", HEVC, AC3),
    Clip("ts MPEG-2", "mpegts", MPEG2, MP2),
    Clip("ts MPEG-4", "mpegts", MPEG4, MP3),
    Clip("ts Opus", "mpegts", H264, OPUS),
    Clip("ts LATM", "mpegts", H264, AAC, "mpegts_flags=+latm"),
    Clip("m2ts", "mpegts", H264, AC3_5_1, "mpegts_m2ts_mode=1", suffix="m2ts"),
    Clip("m2ts E-AC-3", "mpegts", MPEG2_422, EAC3, "mpegts_m2ts_mode=1", suffix="m2ts"),
    Clip("mpg MPEG-1", "mpeg", MPEG1, MP2),
    Clip("mpg MPEG-1, pipe", "mpeg", MPEG1, MP2, way=PIPE),
    Clip("mpg video CD", "vcd", MPEG1, MP2),
    Clip("mpg super video CD", "svcd", MPEG2, MP2),
    Clip("vob MPEG-2", "vob", MPEG2, AC3),
    Clip("vob MPEG-2, pipe", "vob", MPEG2, MP2, way=PIPE),
    Clip("vob DVD", "dvd", MPEG2, AC3),
    Clip("vob H.264", "vob", H264_NO_B, AC3),
    Clip("m1v", "mpeg1video", MPEG1),
    Clip("m2v", "mpeg2video", MPEG2),
    # Flash, Windows Media, Ogg, MXF, NUT and the rest
    Clip("flv H.264", "flv", H264, AAC),
    Clip("flv H.264, pipe", "flv", H264, AAC, way=PIPE),
    Clip("flv H.264, growing", "flv", H264, None, way=GROWING),
    Clip("flv H.264 without length", "flv", H264, AAC, "flvflags=no_duration_filesize"),
    Clip("flv index first", "flv", H264, AAC, "flvflags=add_keyframe_index"),
    Clip("flv Sorenson", "flv", FLV1, MP3),
    Clip("flv Sorenson, ADPCM", "flv", FLV1, ADPCM_FLASH),
    Clip("flv Sorenson, Nellymoser", "flv", FLV1, NELLYMOSER),
    Clip("flv screen video", "flv", FLASHSV, MP3),
    Clip("flv HEVC", "flv", HEVC, AAC),
    Clip("flv AV1", "flv", AV1, AAC),
    Clip("wmv 1", "asf", WMV1, WMA1),
    Clip("wmv 2", "asf", WMV2, WMA2),
    Clip("wmv 2, pipe", "asf", WMV2, WMA2, way=PIPE),
    Clip("asf MPEG-4", "asf", DIVX3, MP3),
    Clip("asf H.264", "asf", H264_NO_B, AAC),
    Clip("ogv VP8, Vorbis", "ogv", VP8, VORBIS, "page_duration=200000"),
    Clip("ogv VP8, Opus, pipe", "ogg", VP8, OPUS, way=PIPE),
    Clip("ogv VP8, FLAC", "ogg", VP8, FLAC),
    Clip("mxf MPEG-2", "mxf", MPEG2, PCM),
    Clip("mxf MPEG-2, pipe", "mxf", MPEG2, PCM, way=PIPE),
    Clip("mxf H.264", "mxf", H264_INTRA, PCM_24),
    Clip("mxf DNxHR", "mxf", DNXHR, PCM_24),
    Clip("mxf ProRes", "mxf", PRORES, PCM),
    Clip("nut H.264", "nut", H264, AAC),
    Clip("nut FFV1, pipe", "nut", FFV1, FLAC, way=PIPE),
    Clip("nut raw", "nut", RAW, PCM),
    Clip("ivf VP8", "ivf", VP8),
    Clip("ivf VP9, pipe", "ivf", VP9, way=PIPE),
    Clip("ivf AV1", "ivf", AV1),
    Clip("y4m", "yuv4mpegpipe", RAW),
    Clip("y4m, pipe", "yuv4mpegpipe", RAW, way=PIPE),
    Clip("gif", "gif", GIF),
    Clip("gif, pipe", "gif", GIF, way=PIPE),
    Clip("gif uneven", "gif", GIF_SCREEN),
    Clip("apng", "apng", APNG),
    Clip("apng, pipe", "apng", APNG, None, "plays=0", PIPE),
    # Rates, clocks and offsets between pictures and sound
    Clip("mp4 1 fps", "mp4", H264_1_FPS, AAC),
    Clip("mkv 1 fps, pipe", "matroska", H264_1_FPS, AAC, way=PIPE),
    Clip("mp4 23.976 fps", "mp4", H264_24, AAC),
    Clip("ts 23.976 fps", "mpegts", H264_24, AAC),
    Clip("mp4 60 fps", "mp4", H264_60, AAC),
    Clip("flv 60 fps", "flv", H264_60, AAC),
    Clip("mp4 120 fps", "mp4", H264_120, AAC),
    Clip("mkv 120 fps", "matroska", H264_120, AAC),
    Clip("avi 120 fps", "avi", MPEG4_120, PCM),
    Clip("mov 240 fps", "mov", H264_240, AAC),
    Clip("mkv 240 fps", "matroska", H264_240, AAC),
    Clip("mp4 screen recorder", "mp4", H264_SCREEN, AAC),
    Clip("mp4 screen recorder, B-frames", "mp4", H264_SCREEN_B, AAC),
    Clip("mkv screen recorder", "matroska", H264_SCREEN_B, AAC),
    Clip("ts screen recorder", "mpegts", H264_SCREEN_B, AAC),
    Clip("flv screen recorder", "flv", H264_SCREEN, AAC),
    Clip("mp4 starts at 5 s", "mp4", H264, AAC, start_s=5.0),
    Clip("mp4 fragments start at 5 s", "mp4", H264, AAC, _FRAGMENTS, PIPE, start_s=5.0),
    Clip("mkv starts at 5 s, pipe", "matroska", H264, AAC, "", PIPE, start_s=5.0),
    Clip("ts starts at an hour", "mpegts", H264, AAC, start_s=3600.0),
    Clip("flv starts at 5 s", "flv", H264, AAC, start_s=5.0),
    Clip("mp4 starts below zero", "mp4", H264, AAC, start_s=-0.2, hidden=5),
    Clip("ts starts below zero", "mpegts", H264, AAC, start_s=-0.2),
    Clip("mp4 sound later", "mp4", H264, AAC, sound_later_s=0.7),
    Clip("mp4 sound earlier", "mp4", H264, AAC, sound_later_s=-0.72, start_s=0.72),
    Clip("mp4 fragments, sound later", "mp4", H264, AAC, _DELAYED, PIPE, sound_later_s=0.7),
    Clip("mov sound earlier", "mov", PRORES, PCM_24, sound_later_s=-0.72, start_s=0.72),
    Clip("mkv sound later", "matroska", H264, AAC, sound_later_s=0.7),
    Clip(
        "webm sound earlier", "webm", VP8, OPUS, "live=1", PIPE, sound_later_s=-0.72, start_s=0.72
    ),
    Clip("ts sound later", "mpegts", H264, AAC, sound_later_s=0.7),
    Clip("ts sound earlier", "mpegts", H264, AAC, sound_later_s=-0.72, start_s=0.72),
    Clip("flv sound later", "flv", H264, AAC, sound_later_s=0.7),
    Clip("wmv sound later", "asf", WMV2, WMA2, sound_later_s=0.7),
    # More in a file than pictures and sound, and misleading names
    Clip("mp4 that is WebM", "webm", VP8, OPUS, suffix="mp4"),
    Clip("mp4 that is Matroska", "matroska", H264, AAC, suffix="mp4"),
    Clip("avi that is MP4", "mp4", H264, AAC, suffix="avi"),
    Clip("mp4 that is TS", "mpegts", H264, AAC, suffix="mp4"),
    Clip("webm that is MP4", "mp4", H264, AAC, _FRAGMENTS, PIPE, suffix="webm"),
    Clip("mp4 chapters", "mp4", H264, AAC, extra=chapters),
    Clip("mkv chapters", "matroska", H264, AAC, extra=chapters),
    Clip("mp4 subtitles", "mp4", H264, AAC, extra=text_track),
    Clip("mkv subtitles", "matroska", H264, AAC, extra=subrip),
    Clip("mov timecode", "mov", H264, PCM, extra=timecode),
    Clip("mp4 timecode", "mp4", H264, AAC, extra=timecode),
    Clip("mxf timecode", "mxf", MPEG2, PCM, extra=timecode),
    Clip("ts data track", "mpegts", H264, AAC, extra=data_track),
    Clip("mp4 cover", "mp4", H264, AAC, extra=cover),
]

_FFFF, _ZERO, _SOX, _TWO_BILLION = 0xFFFFFFFF, 0, 0x7FFFFFFF, 2_000_000_000

RECORDINGS = [
    # Waveform files
    Clip("wav", "wav", None, PCM),
    Clip("wav 16 kHz", "wav", None, PCM_16K),
    Clip("wav, pipe", "wav", None, PCM_16K, way=PIPE),
    Clip("wav, growing", "wav", None, PCM_16K, way=GROWING),
    Clip("wav sizes -1", "wav", None, PCM_16K, edit=wav_sizes(_FFFF, _FFFF)),
    Clip("wav sizes 0", "wav", None, PCM_16K, edit=wav_sizes(_ZERO, _ZERO)),
    Clip("wav sizes of SoX", "wav", None, PCM_16K, edit=wav_sizes(_SOX + 36, _SOX)),
    Clip("wav sizes below SoX's", "wav", None, PCM_16K, edit=wav_sizes(_SOX, _SOX - 36)),
    Clip("wav sizes 2,000,000,000", "wav", None, PCM, edit=wav_sizes(_TWO_BILLION, _TWO_BILLION)),
    Clip("wav RIFF size -1", "wav", None, PCM_16K, edit=wav_sizes(_FFFF, None)),
    Clip("wav data size -1", "wav", None, PCM_16K, edit=wav_sizes(None, _FFFF)),
    Clip("wav data size 0", "wav", None, PCM_16K, edit=wav_sizes(None, 0)),
    Clip("wav RIFF size 36", "wav", None, PCM_16K, edit=wav_sizes(36, 0)),
    Clip("wav pad counted", "wav", None, PCM_8, edit=wav_counting_the_pad),
    Clip("wav RF64", "wav", None, PCM, "rf64=always"),
    Clip("wav BWF", "wav", None, PCM_24, "write_bext=1"),
    Clip("wav LIST first", "wav", None, PCM, edit=wav_chunk_before),
    Clip("wav LIST last", "wav", None, PCM, edit=wav_chunk_after),
    Clip("wav odd chunk", "wav", None, PCM, edit=wav_odd_chunk_before),
    Clip("wav 5.1 extensible", "wav", None, PCM_5_1),
    Clip("wav stereo, pipe", "wav", None, PCM_STEREO, way=PIPE),
    Clip("wav 8 bits", "wav", None, PCM_8),
    Clip("wav 24 bits", "wav", None, PCM_24),
    Clip("wav 24 bits, pipe", "wav", None, PCM_24, way=PIPE),
    Clip("wav 32 bits", "wav", None, PCM_32),
    Clip("wav float", "wav", None, PCM_F32),
    Clip("wav float, pipe", "wav", None, PCM_F32, way=PIPE),
    Clip("wav double", "wav", None, PCM_F64),
    Clip("wav 384 kHz", "wav", None, PCM_384K),
    Clip("wav A-law", "wav", None, ALAW),
    Clip("wav mu-law, pipe", "wav", None, MULAW, way=PIPE),
    Clip("wav ADPCM", "wav", None, ADPCM_MS),
    Clip("wav ADPCM, pipe", "wav", None, ADPCM_MS, way=PIPE),
    Clip("wav IMA ADPCM", "wav", None, ADPCM_IMA),
    Clip("wav MP3", "wav", None, MP3, delay_ms=_XING_DELAY_MS),
    Clip("w64", "w64", None, PCM),
    Clip("aiff", "aiff", None, PCM_BE),
    Clip("aiff 8 bits", "aiff", None, PCM_S8),
    Clip("aiff 24 bits", "aiff", None, PCM_24_BE),
    Clip("aiff float", "aiff", None, PCM_F32_BE),
    Clip("aiff double", "aiff", None, PCM_F64_BE),
    Clip("aiff, little-endian", "aiff", None, PCM),
    Clip("au", "au", None, PCM_BE),
    Clip("au, pipe", "au", None, PCM_BE, way=PIPE),
    Clip("au size unknown", "au", None, PCM_BE, edit=au_of_unknown_size),
    Clip("au mu-law", "au", None, MULAW),
    Clip("caf", "caf", None, PCM),
    Clip("caf, pipe", "caf", None, PCM, way=PIPE),
    Clip("caf big-endian 24 bits", "caf", None, PCM_24_BE),
    Clip("caf ALAC", "caf", None, ALAC),
    # MPEG sound
    Clip("mp3", "mp3", None, MP3),
    Clip("mp3 16 kHz", "mp3", None, MP3_16K),
    Clip("mp3 VBR", "mp3", None, MP3_VBR),
    Clip("mp3, pipe", "mp3", None, MP3, way=PIPE, delay_ms=_XING_DELAY_MS),
    Clip("mp3, growing", "mp3", None, MP3, way=GROWING, delay_ms=13),
    Clip("mp3 VBR, pipe", "mp3", None, MP3_VBR, way=PIPE, delay_ms=_XING_DELAY_MS),
    Clip("mp3 without Xing", "mp3", None, MP3_STEREO, "write_xing=0", delay_ms=_XING_DELAY_MS),
    Clip("mp3 VBR without Xing", "mp3", None, MP3_VBR, "write_xing=0", delay_ms=_XING_DELAY_MS),
    Clip("mp3 ID3v2.3, ID3v1", "mp3", None, MP3, "id3v2_version=3 write_id3v1=1"),
    Clip("mp3 without tags", "mp3", None, MP3, "id3v2_version=0"),
    Clip("mp3 cover", "mp3", None, MP3_STEREO, extra=cover),
    Clip("mp2", "mp2", None, MP2, delay_ms=10),
    Clip("aac ADTS", "adts", None, AAC, delay_ms=_AAC_DELAY_MS, suffix="aac"),
    Clip("aac ADTS, pipe", "adts", None, AAC_STEREO, way=PIPE, delay_ms=23.2, suffix="aac"),
    Clip("aac ADTS, tag", "adts", None, AAC, edit=id3_tag_first, delay_ms=_AAC_DELAY_MS),
    Clip("aac LATM", "latm", None, AAC, delay_ms=_AAC_DELAY_MS),
    Clip("aac LATM, pipe", "latm", None, AAC, way=PIPE, delay_ms=_AAC_DELAY_MS),
    Clip("m4a AAC", "ipod", None, AAC, suffix="m4a"),
    Clip("m4a AAC faststart", "ipod", None, AAC_STEREO, "movflags=faststart", suffix="m4a"),
    Clip("m4a AAC fragments, pipe", "mp4", None, AAC, _FRAGMENTS, PIPE, delay_ms=_AAC_DELAY_MS),
    Clip("m4a AAC delay_moov, pipe", "mp4", None, AAC, _DELAYED, PIPE, suffix="m4a"),
    Clip("m4a ALAC", "ipod", None, ALAC, suffix="m4a"),
    Clip("m4a chapters", "ipod", None, AAC, extra=chapters, suffix="m4a"),
    Clip("mov PCM", "mov", None, PCM_24),
    # Free codecs
    Clip("flac", "flac", None, FLAC),
    Clip("flac 24 bits 96 kHz", "flac", None, FLAC_24),
    Clip("flac, pipe", "flac", None, FLAC, way=PIPE),
    Clip("flac length unknown", "flac", None, FLAC, edit=flac_of_unknown_length),
    Clip("flac cover", "flac", None, FLAC, extra=cover),
    Clip("flac tag", "flac", None, FLAC, edit=id3_tag_first),
    Clip("flac in Ogg", "ogg", None, FLAC),
    Clip("flac in Ogg, pipe", "ogg", None, FLAC, way=PIPE),
    Clip("flac in mkv, pipe", "matroska", None, FLAC, way=PIPE),
    Clip("flac in mp4", "mp4", None, FLAC),
    Clip("opus", "opus", None, OPUS),
    Clip("opus, pipe", "ogg", None, OPUS_STEREO, way=PIPE),
    Clip(
        "opus, no last page", "ogg", None, OPUS, edit=ogg_without_last_page, mux="page_duration=1"
    ),
    Clip("opus 60 ms", "ogg", None, OPUS_60MS),
    Clip("opus in webm", "webm", None, OPUS),
    Clip("opus in webm, MediaRecorder", "webm", None, OPUS, "live=1", PIPE),
    Clip("opus in mkv, growing", "matroska", None, OPUS, _SHORT_CLUSTERS, GROWING),
    Clip("opus in mp4", "mp4", None, OPUS),
    Clip("opus in mp4 fragments, pipe", "mp4", None, OPUS, _DELAYED, PIPE),
    Clip("opus in ts", "mpegts", None, OPUS),
    Clip("vorbis", "ogg", None, VORBIS),
    Clip("vorbis, pipe", "oga", None, VORBIS, way=PIPE, suffix="ogg"),
    Clip("vorbis in webm", "webm", None, VORBIS),
    Clip("vorbis in mkv, pipe", "matroska", None, VORBIS, way=PIPE),
    # The rest
    Clip("ac3", "ac3", None, AC3),
    Clip("ac3 5.1, pipe", "ac3", None, AC3_5_1, way=PIPE),
    Clip("eac3", "eac3", None, EAC3),
    Clip("amr", "amr", None, AMR, delay_ms=_AMR_DELAY_MS),
    Clip("amr, pipe", "amr", None, AMR, way=PIPE, delay_ms=_AMR_DELAY_MS),
    Clip("amr in 3gp", "3gp", None, AMR),
    Clip("tta", "tta", None, TTA),
    Clip("wv", "wv", None, WAVPACK),
    Clip("wv, pipe", "wv", None, WAVPACK, way=PIPE),
    Clip("wma", "asf", None, WMA2, suffix="wma", delay_ms=_WMA_DELAY_MS),
    Clip("wma, pipe", "asf", None, WMA2, way=PIPE, suffix="wma", delay_ms=_WMA_DELAY_MS),
    Clip("wma 1", "asf", None, WMA1, suffix="wma", delay_ms=_WMA_DELAY_MS),
    Clip("aac in flv", "flv", None, AAC, delay_ms=_AAC_DELAY_MS),
    Clip("aac in ts", "mpegts", None, AAC, delay_ms=_AAC_DELAY_MS),
    Clip("aac in mkv", "matroska", None, AAC),
    Clip("mp3 in mkv, pipe", "matroska", None, MP3, way=PIPE),
    Clip("mp3 in avi", "avi", None, MP3, delay_ms=_XING_DELAY_MS),
    Clip("pcm in avi, pipe", "avi", None, PCM, way=PIPE),
    Clip("pcm in nut", "nut", None, PCM),
    Clip("ac3 in ts, growing", "mpegts", None, AC3, way=GROWING),
]


def test_the_corpus_has_at_least_150_different_files() -> None:
    names = [clip.name for clip in CLIPS + RECORDINGS]
    assert len(set(names)) == len(names) >= 150


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_a_valid_video_shows_the_right_pictures(
    clip: Clip, tmp_path: Path, settings: Settings
) -> None:
    pictures = clip.pictures
    assert pictures is not None
    path = write(clip, tmp_path)
    info = probe_video(path, settings, "video")
    frame_s = pictures.length_s / len(pictures.shown_s)
    length_s = pictures.length_s - pictures.shown_s[clip.hidden]
    if clip.way == GROWING:  # encoders keep their newest frames back
        assert length_s / 2 < info.duration_s <= length_s
    else:
        assert info.duration_s == pytest.approx(length_s, abs=max(0.04, frame_s) + 0.001)

    reader = VideoReader(path, info)
    forwards = [read_number(frame) for frame in reader.read(range(info.num_frames))]
    backwards = [read_number(frame) for frame in reader.read(reversed(range(info.num_frames)))]
    _check_numbers(forwards, pictures, clip.hidden)
    assert backwards == forwards[::-1]

    if clip.sound is not None:
        _check_step(clip, path, info, settings)


def _check_numbers(numbers: list[int], pictures: Pictures, hidden: int) -> None:
    """Check which picture each 25 fps frame shows; containers round times to milliseconds."""
    for slot, number in enumerate(numbers):
        middle_s = float(pictures.shown_s[hidden]) + (slot + 0.5) / 25
        shown = [_picture_at(pictures, middle_s + rounding_s) for rounding_s in (-0.003, 0.003)]
        assert shown[0] <= number <= shown[1], f"frame {slot} of {numbers}"


def _picture_at(pictures: Pictures, moment_s: float) -> int:
    return max(0, int(np.searchsorted(pictures.shown_s, moment_s, side="right")) - 1)


def _check_step(clip: Clip, path: Path, video: VideoInfo, settings: Settings) -> None:
    """Check when the tone is heard after the first picture."""
    info = probe_audio(path, settings, "video")
    lead_s = info.start_s - video.start_s
    heard = read_waveform(path, info)
    assert clip.pictures is not None
    hidden_s = float(clip.pictures.shown_s[clip.hidden])
    placed_s = TONE_FROM_S + clip.sound_later_s + clip.delay_ms / 1000 - hidden_s
    assert _tone_from_s(heard) + lead_s == pytest.approx(placed_s, abs=0.01)
    assert _pitch_hz(heard) == pytest.approx(TONE_HZ, rel=0.01)


@pytest.mark.parametrize("clip", RECORDINGS, ids=lambda clip: clip.name)
def test_a_valid_recording_is_heard_whole(clip: Clip, tmp_path: Path, settings: Settings) -> None:
    assert clip.sound is not None
    path = write(clip, tmp_path)
    info = probe_audio(path, settings, "audio")
    heard = read_waveform(path, info)
    uncertain_s = 0.03 + (clip.sound.padding_ms + abs(clip.delay_ms)) / 1000
    assert info.duration_s == pytest.approx(LENGTH_S, abs=uncertain_s)
    assert heard.size / SAMPLE_RATE == pytest.approx(info.duration_s, abs=uncertain_s)
    placed_s = TONE_FROM_S + clip.delay_ms / 1000
    assert _tone_from_s(heard) == pytest.approx(placed_s, abs=0.01)
    assert _pitch_hz(heard) == pytest.approx(TONE_HZ, rel=0.01)


def _tone_from_s(waveform: np.ndarray) -> float:
    level = np.abs(waveform)
    return int(np.argmax(level > 0.5 * level.max())) / SAMPLE_RATE


def _pitch_hz(waveform: np.ndarray) -> float:
    """Return the frequency of the tone, from the times its wave crosses zero."""
    start = round((_tone_from_s(waveform) + 0.03) * SAMPLE_RATE)
    length = round((TONE_UNTIL_S - TONE_FROM_S - 0.06) * SAMPLE_RATE)
    tone = waveform[start : start + length]
    rising = np.flatnonzero((tone[:-1] < 0) & (tone[1:] >= 0))
    return float((rising.size - 1) * SAMPLE_RATE / (rising[-1] - rising[0]))
