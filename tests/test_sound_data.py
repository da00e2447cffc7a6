"Readers on small copies of each set's layout, splits, procedural sounds, loaders"
import json
import os
import pickle
import runpy
import subprocess
import sys
import tarfile
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foleybook import sound_data
from foleybook.audio_features import MelConfig
from foleybook.core import clip_tables
from foleybook.core.sound_files import read_audio, write_audio
from foleybook.core.data_sets import (
    ClipConditions, load_features, open_dataset, read_csv, read_dcase2023, read_esc, read_folder, read_fsd50k, read_fsdd,
    read_ljspeech, read_params, read_speech_commands, read_urbansound8k, read_vas, read_vggsound, snake_case)
from foleybook.core.clip_tables import (
    ClipTable, in_test_split, load_params, resample_params, split_by_fold, split_by_source, split_table, trim_silence,
    write_params)
from foleybook.core.files import TableError
from foleybook.core.feature_cache import CacheError, MelCache, WaveCache
from foleybook.train.loaders import TensorAudio, TensorMel, mel_dls, wave_dls
from foleybook.sound_data import PROCEDURAL, make_procedural, procedural_sound

ROOT = Path(__file__).resolve().parent.parent
MEL = MelConfig.preset("dcase2023")


def tone(path, seconds=0.3, rate=22050, hz=440.0):
    "A short tone at `path`"
    path.parent.mkdir(parents=True, exist_ok=True)
    t = torch.arange(int(seconds * rate)) / rate
    write_audio(path, 0.3 * torch.sin(2 * torch.pi * hz * t)[None], rate)
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


# --- tables -----------------------------------------------------------------------------------------------------------


def test_table_round_trip(tmp_path):
    df = dict(path=["a/1.wav", "b/2.wav"], label=["0", "NA"], split=["train", ""], fold=[1, 2], source=["007", "x"],
              extra=[1.5, 2])
    table = ClipTable(df, tmp_path)
    back = ClipTable.read(table.save(tmp_path / "sub/clips.csv"))
    assert back.df.label.tolist() == ["0", "NA"] and back.df.source.tolist() == ["007", "x"]
    assert [f.resolve() for f in back.files()] == [f.resolve() for f in table.files()]
    assert back.df.extra.tolist() == [1.5, 2] and back.labels == ["0", "NA"]
    assert len(back.filter(split="train")) == 1 and len(back.filter(fold=[1, 2])) == 2
    assert not list(tmp_path.glob("**/*.tmp"))
    with pytest.raises(TableError, match="no column 'colour'"):
        back.filter(colour=1)


@pytest.mark.parametrize("content,says", [
    ("", "not a csv"), ("name,label\na,b\n", "no column 'path'"), ("path,fold\na.wav,one\n", "holds 'one'"),
    ("a,b\n1,2,3,4\n5\n", "not a csv|no column")])
def test_bad_tables(tmp_path, content, says):
    with pytest.raises(TableError, match=says):
        ClipTable.read(text(tmp_path / "t.csv", content))


def test_missing_csv(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        ClipTable.read(tmp_path / "none.csv")


def test_shippable():
    ok = ["CC0", "CC BY 3.0", "CC-BY", "CC BY-SA 4.0", "Public Domain", "generated"]
    no = ["", "CC-Sampling+", "CC BY-NC 3.0", "CC-BY-NC", "CC BY-ND 4.0", "CC BY-NC-SA 4.0", "GPL"]
    table = ClipTable(dict(path=[f"{i}.wav" for i in range(len(ok + no))], licence=ok + no))
    assert table.shippable().df.licence.tolist() == ok


def test_check_reports_bad_files(tmp_path):
    good = tone(tmp_path / "a/good.wav")
    text(tmp_path / "a/text.wav", "this is not audio")
    (tmp_path / "a/empty.wav").touch()
    (tmp_path / "a/cut.wav").write_bytes(good.read_bytes()[:40])
    write_audio(tmp_path / "a/silent.wav", torch.zeros(1, 1000), 22050)
    names = ["good", "text", "empty", "cut", "silent", "gone"]
    table = ClipTable(dict(path=[f"a/{n}.wav" for n in names]), tmp_path)
    with pytest.warns(UserWarning, match="5 of 6 clips left out"):
        checked = table.check()
    assert checked.df.path.tolist() == ["a/good.wav"]
    assert [p for p, _ in checked.skipped] == table.df.path.tolist()[1:]
    assert all(p.split("/")[1] in reason for p, reason in checked.skipped)
    with pytest.raises(TableError, match=r"text.wav.*5 bad files"):
        table.check(strict=True)


# --- readers ----------------------------------------------------------------------------------------------------------


def test_folder(tmp_path):
    tone(tmp_path / "DogBark/a.wav"), tone(tmp_path / "DogBark/deep/b.flac"), tone(tmp_path / "rain/c.ogg")
    text(tmp_path / "rain/notes.txt", "x"), tone(tmp_path / "rain/.c.wav")
    (tmp_path / "wind").mkdir()
    with pytest.warns(UserWarning, match="wind: class folder holds no audio"):
        table = read_folder(tmp_path)
    assert table.df.label.tolist() == ["dog_bark", "dog_bark", "rain"] and table.skipped[0][0] == "wind"
    with pytest.warns(UserWarning):
        assert open_dataset(tmp_path).df.equals(table.df)
    assert read_folder(tmp_path / "rain").labels == ["rain"]
    with pytest.raises(TableError, match="no clips found"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_folder(tmp_path / "wind")


@pytest.mark.parametrize("name,label", [
    ("MovingMotorVehicle", "moving_motor_vehicle"), ("Sneeze_Cough", "sneeze_cough"), ("Dog bark", "dog_bark"),
    ("雨", "雨"), ("猫", "猫"), ("Дождь", "дождь"), ("été", "été"), ("e\u0301te\u0301", "été"), ("C", "c"), ("C++", "c++"),
    ("C#", "c#"), ("हवा", "हवा"), ("rain (light)", "rain_light"), ("?!", "?!"), ("🌧", "🌧")])
def test_names_of_classes_stay_apart_and_readable(name, label):
    assert snake_case(name) == label == snake_case(label)


def test_folders_of_all_scripts(tmp_path):
    names = ["雨", "猫", "Дождь", "été", "C", "C++", "a!", "a?"]
    for name in names:
        text(tmp_path / name / "x.wav", "")
    assert read_folder(tmp_path).labels == sorted(["雨", "猫", "дождь", "été", "c", "c++", "a!", "a?"])
    text(tmp_path / "c" / "y.wav", "")
    with pytest.warns(UserWarning, match="'C', 'c' are taken as one class, 'c'"):
        assert len(read_folder(tmp_path).labels) == len(names)


def test_open_dataset_says_what_it_took(tmp_path):
    for f in ["DogBark/1.wav", "GunShot/2.wav", "MovingMotorVehicle/3.wav", "Whale/4.wav"]:
        text(tmp_path / f, "")
    with pytest.warns(UserWarning, match="which has no Whale: left out.*layout='folders'"):
        table = open_dataset(tmp_path)
    assert table.note == "read as DCASE 2023 Task 7" and table.note in repr(table) and len(table) == 3
    assert table.skipped[0][0] == "Whale" and table.filter(label="gunshot").note == table.note
    plain = open_dataset(tmp_path, layout="folders")
    assert plain.labels == ["dog_bark", "gun_shot", "moving_motor_vehicle", "whale"]
    with pytest.raises(TableError, match="no layout 'plain'. Choose one of table, esc.*folders"):
        open_dataset(tmp_path, layout="plain")


def test_stale_table_is_mentioned(tmp_path):
    tone(tmp_path / "dog/a.wav"), tone(tmp_path / "cat/b.wav")
    open_dataset(tmp_path).save(tmp_path / "clips.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_dataset(tmp_path).note == "read as the table clips.csv"
    tone(tmp_path / "whale/c.wav")
    with pytest.warns(UserWarning, match="lists no clip of 1 folders that hold sounds: whale.*layout='folders'"):
        assert open_dataset(tmp_path).labels == ["cat", "dog"]
    assert open_dataset(tmp_path, layout="folders").labels == ["cat", "dog", "whale"]


def test_csv(tmp_path):
    csv = text(tmp_path / "t.csv", "filename,category,licence\nx.wav,bark,CC0\n")
    assert open_dataset(csv).df.loc[0, ["path", "label", "licence"]].tolist() == ["x.wav", "bark", "CC0"]
    csv = text(tmp_path / "t.csv", "f,kind\nx.wav,bark\n")
    assert read_csv(csv, path="f", label="kind").labels == ["bark"]
    with pytest.raises(TableError, match="no column 'sort'"):
        read_csv(csv, path="f", label="sort")


def test_esc10_by_names_and_credits(tmp_path):
    for f in ["001 - Dog bark/1-100032-A.ogg", "001 - Dog bark/2-122104-B.ogg", "009 - Rooster/1-40730-A.ogg"]:
        text(tmp_path / f, "")
    text(tmp_path / "README.md", """
- **[1-100032-A.ogg](x)**: clip derived from [rose_bark.wav](y) by *nfrae* ([CC0](z))
- **[2-122104-B.ogg](x)**: clip derived from [Dog (nice).wav](y) by *rickyjezz* ([CC-BY](z))
- **[1-40730-A.ogg](x)**: clip derived from [c.wav](y) by *me* ([CC-Sampling+](z))""")
    table = open_dataset(tmp_path)
    assert table.df.label.tolist() == ["dog_bark", "dog_bark", "rooster"] and table.df.fold.tolist() == [1, 2, 1]
    assert table.df.source.tolist() == ["100032", "122104", "40730"] and table.df["take"].tolist() == ["A", "B", "A"]
    assert table.df.licence.tolist() == ["CC0", "CC-BY", "CC-Sampling+"] and table.df.author[1] == "rickyjezz"
    assert len(table.shippable()) == 2


def test_esc50(tmp_path):
    text(tmp_path / "meta/esc50.csv", "filename,fold,target,category,esc10,src_file,take\n"
         "1-100032-A-0.wav,1,0,dog,True,100032,A\n1-100038-A-14.wav,2,14,chirping_birds,False,100038,A\n")
    text(tmp_path / "LICENSE", "- 1-100032-A-0.wav: clip by nfrae (CC0)\n")
    table = open_dataset(tmp_path)
    assert table.df.path[0] == "audio/1-100032-A-0.wav" and table.labels == ["chirping_birds", "dog"]
    assert table.df.licence.tolist() == ["CC0", ""] and table.df.source[0] == "100032"
    assert read_esc(tmp_path, esc10=True).labels == ["dog"]


def test_dcase2023(tmp_path):
    for f in ["DogBark/001.wav", "GunShot/2.wav", "Sneeze_Cough/3.wav", "MovingMotorVehicle/4.wav", "Other/5.wav"]:
        text(tmp_path / "a" / f, "")
    assert open_dataset(tmp_path / "a").labels == ["dog_bark", "gunshot", "moving_motor_vehicle", "sneeze_cough"]
    text(tmp_path / "b/dev/dog_bark/1.wav", "")
    text(tmp_path / "b/eval/rain/2.wav", "")
    table = open_dataset(tmp_path / "b")
    assert table.df[["label", "split"]].values.tolist() == [["dog_bark", "dev"], ["rain", "eval"]]
    assert [len(i) for i in split_table(table)] == [1, 1]
    assert read_dcase2023(tmp_path / "b").df.equals(table.df)


def test_urbansound8k(tmp_path):
    text(tmp_path / "metadata/UrbanSound8K.csv", "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
         "100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark\n7061-6-0-0.wav,7061,1,3.5,2,1,6,gun_shot\n")
    table = open_dataset(tmp_path)
    assert table.df.path.tolist() == ["audio/fold5/100032-3-0-0.wav", "audio/fold1/7061-6-0-0.wav"]
    assert table.df.fold.tolist() == [5, 1] and table.df.source.tolist() == ["100032", "7061"]
    assert table.df.start.isna().all() and len(read_urbansound8k(tmp_path).shippable()) == 0


def test_speech_commands(tmp_path):
    for f in ["zero/aa_nohash_0", "zero/bb_nohash_0", "nine/aa_nohash_1", "cat/aa_nohash_0", "_background_noise_/x"]:
        text(tmp_path / f"{f}.wav", "")
    text(tmp_path / "validation_list.txt", "zero/bb_nohash_0.wav\n")
    text(tmp_path / "testing_list.txt", "nine/aa_nohash_1.wav\n")
    table = open_dataset(tmp_path)
    assert table.labels == ["nine", "zero"] and sorted(table.df.split) == ["test", "train", "valid"]
    assert set(table.df.source) == {"aa", "bb"} and len(read_speech_commands(tmp_path, words=None)) == 4


def test_fsdd(tmp_path):
    for f in ["7_jackson_32.wav", "0_theo_3.wav"]:
        text(tmp_path / "recordings" / f, "")
    table = open_dataset(tmp_path)
    assert table.df.label.tolist() == ["zero", "seven"] and table.df.source.tolist() == ["theo", "jackson"]
    assert table.df.split.tolist() == ["test", "train"]
    assert len(read_fsdd(tmp_path)) == 2


def test_ljspeech(tmp_path):
    text(tmp_path / "metadata.csv", 'LJ001-0001|Printing, "in"|Printing, "in"\nLJ002-0001|Two|two\n')
    (tmp_path / "wavs").mkdir()
    table = open_dataset(tmp_path)
    assert table.df.path.tolist() == ["wavs/LJ001-0001.wav", "wavs/LJ002-0001.wav"]
    assert table.df.source.tolist() == ["LJ001", "LJ002"]
    assert table.df.text[0] == 'Printing, "in"' and read_ljspeech(tmp_path).labels == ["speech"]


def features(folder, vid, mel_dtype=np.float32):
    "Mel and RGB feature of one video below `folder`"
    (folder / "melspec_10s_22050hz").mkdir(parents=True, exist_ok=True)
    (folder / "feature_rgb_bninception_dim1024_21.5fps").mkdir(exist_ok=True)
    np.save(folder / f"melspec_10s_22050hz/{vid}_mel.npy", np.random.rand(80, 860).astype(mel_dtype))
    rgb = folder / f"feature_rgb_bninception_dim1024_21.5fps/{vid}.pkl"
    rgb.write_bytes(pickle.dumps(np.random.rand(215, 4).astype(np.float32)))


def test_vas_and_its_cache(tmp_path):
    for i in range(70):
        features(tmp_path / "features/cough", f"video_{i:05d}")
    table = open_dataset(tmp_path)
    assert table.labels == ["cough"] and (table.df.split == "valid").sum() == 64 and table.df.split[5] == "train"
    assert load_features(table.root / table.df.rgb[0]).shape == (215, 4) and table.df.flow[0] == ""
    mel = MelConfig.preset("specvqgan")
    cache = MelCache.build(table.subset(range(3)), mel, 9.0, tmp_path / "cache", progress=False, trim=False)
    stored = np.load(table.file(1))
    assert np.array_equal(cache.mels[1], stored[:, : cache.mels.shape[-1]])
    assert read_vas(tmp_path).df.equals(table.df)


def test_vggsound(tmp_path):
    features(tmp_path, "-1pRmoJIGQc_10000_20000", np.float64), features(tmp_path, "zzzzzzzzzzz_0_10000")
    text(tmp_path / "vggsound.csv", '-1pRmoJIGQc,10,"dog, barking",train\n')
    table = open_dataset(tmp_path)
    assert table.df[["label", "split", "source"]].values.tolist()[0] == ["dog, barking", "train", "-1pRmoJIGQc"]
    assert len(read_vggsound(tmp_path)) == 2 and table.df.rgb[0].endswith("-1pRmoJIGQc_10000_20000.pkl")


def test_fsd50k(tmp_path):
    truth, info = tmp_path / "FSD50K.ground_truth", tmp_path / "FSD50K.metadata"
    truth.mkdir(), info.mkdir()
    text(truth / "dev.csv", 'fname,labels,mids,split\n1,"Bark,Dog,Animal",a,train\n2,"Dog,Animal",b,val\n'
         '3,"Bark,Dog,Animal,Door",c,train\n4,"Meow,Animal",d,train\n5,Door,e,train\n')
    text(truth / "eval.csv", 'fname,labels,mids\n6,"Meow,Animal",d\n')
    urls = ["publicdomain/zero/1.0/", "licenses/by/3.0/", "licenses/by/3.0/", "licenses/by-nc/3.0/", "licenses/sampling+/1.0/"]
    told = {str(k + 1): dict(license=f"http://creativecommons.org/{u}", uploader=f"u{k}") for k, u in enumerate(urls)}
    text(info / "dev_clips_info_FSD50K.json", json.dumps(told))
    table = open_dataset(tmp_path)
    assert table.note == "read as FSD50K"
    rows = table.df[["path", "label", "split", "licence", "author"]].values.tolist()
    assert rows == [  # clip 3 is of two sounds; nothing is known of clip 6
        ["FSD50K.dev_audio/1.wav", "bark", "train", "CC0 1.0", "u0"],
        ["FSD50K.dev_audio/2.wav", "dog", "valid", "CC BY 3.0", "u1"],
        ["FSD50K.dev_audio/4.wav", "meow", "train", "CC BY-NC 3.0", "u3"],
        ["FSD50K.dev_audio/5.wav", "door", "train", "CC Sampling+ 1.0", "u4"],
        ["FSD50K.eval_audio/6.wav", "meow", "test", "", ""]]
    assert list(table.shippable().df.label) == ["bark", "dog"]
    assert list(read_fsd50k(tmp_path, mixed=True).df.label)[2] == "bark"
    with pytest.raises(TableError, match="fsd50k.py"):
        read_fsd50k(tmp_path / "FSD50K.metadata")


def test_paths_of_a_table_keep_their_folders(tmp_path):
    paths = ["a/x.wav", "a/./y.wav", "b/../a/z.wav", "/abs/w.wav", "top.wav", "../up.wav"]
    moved = ClipTable(dict(path=paths), tmp_path / "set").relative(tmp_path / "out/here").path
    assert list(moved) == [os.path.relpath(tmp_path / "set" / p, tmp_path / "out/here") for p in paths]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_are_not_executed(tmp_path, protocol):
    x, owned = np.random.rand(3, 4).astype(np.float32), tmp_path / "owned"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(x, protocol))
    assert np.array_equal(load_features(tmp_path / "x.pkl"), x)
    hidden = np.array([Evil(str(owned))], dtype=object)
    for bad in [Evil(str(owned)), hidden, {"x": Evil(str(owned))}, {"x": 1}, np.array(["a", None], dtype=object)]:
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(bad, protocol))
        with pytest.raises(TableError, match="x.pkl"):
            load_features(tmp_path / "x.pkl")
        np.save(tmp_path / "x.npy", np.array([bad, 1], dtype=object), allow_pickle=True)
        with pytest.raises(TableError, match="x.npy"):
            load_features(tmp_path / "x.npy")
    assert not owned.exists()


def test_pickle_opcodes_that_call_builtins(tmp_path):
    payload = b"cbuiltins\neval\n(S'__import__(\"os\").mkdir(\"" + str(tmp_path / "owned").encode() + b"\")'\ntR."
    (tmp_path / "x.pkl").write_bytes(payload)
    with pytest.raises(TableError, match="builtins.eval"):
        load_features(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(np.zeros(3))[:-5])
    with pytest.raises(TableError):
        load_features(tmp_path / "x.pkl")
    assert not (tmp_path / "owned").exists()


def test_params(tmp_path):
    tone(tmp_path / "a.wav"), tone(tmp_path / "b.wav"), tone(tmp_path / "c.wav")
    write_params(tmp_path / "a.params", dict(rate=0.5, force=([0, 1], [0, 1])), seconds=0.3)
    write_params(tmp_path / "b.params", dict(rate=0.25, force=0.0), seconds=0.3)
    table = open_dataset(tmp_path)
    assert table.df.rate.tolist() == [0.5, 0.25] and np.isnan(table.df.force[0]) and table.skipped[0][0] == "c.wav"
    got = resample_params(load_params(tmp_path / "a.params"), ["force", "rate"], 3, 0, 2)
    assert np.allclose(got, [[0, 0.5], [1, 0.5], [2, 0.5]])
    with pytest.raises(TableError, match="no parameter 'size'"):
        resample_params(load_params(tmp_path / "a.params"), ["size"], 3)
    p = json.loads((tmp_path / "a.params").read_text())
    p["rate"]["times"] = [0]
    text(tmp_path / "a.params", json.dumps(p))
    with pytest.raises(TableError, match="a.params: 'rate' has 1 times, 2 values"):
        read_params(tmp_path)


def test_open_dataset_says_what_is_wrong(tmp_path):
    with pytest.raises(TableError, match="no such folder"):
        open_dataset(tmp_path / "none")
    with pytest.raises(TableError, match="no clips found"):
        open_dataset(tmp_path)


# --- splits -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60), st.floats(0.05, 0.6),
       st.integers(0, 99))
def test_split_never_separates_takes(rows, valid, seed):
    paths, labels, sources = zip(*[(f"{i}.wav", f"l{a}", f"s{b}") for i, (a, b) in enumerate(rows)])
    table = ClipTable(dict(path=paths, label=labels, source=sources))
    train, held = split_by_source(table, valid, seed)
    assert sorted([*train, *held]) == list(range(len(rows)))
    assert not set(table.df.source[train]) & set(table.df.source[held])
    assert set(table.df.label[train]) == set(table.labels) and len(train)
    again = split_by_source(table, valid, seed)
    assert np.array_equal(train, again[0]) and np.array_equal(held, again[1])


@pytest.mark.parametrize("test", ["test", "Test ", "testing"])
@pytest.mark.parametrize("ask", [{}, dict(fold=2), dict(valid_idx=[4, 5])])
def test_an_official_test_split_never_trains(tmp_path, test, ask):
    rows = [dict(path=tone(tmp_path / f"{i}.wav", 0.1 + i / 50).name, label="ab"[i % 2], fold=1 + i % 5, split=test if i < 4 else "")
            for i in range(20)]
    table = ClipTable(pd.DataFrame(rows), tmp_path)
    mel = MelConfig(22050, 256, 256, 64, 8)
    dls = mel_dls(table, mel, 0.1, cache_dir=tmp_path / "cache", bs=2, progress=False, **ask)
    assert set(dls.train_rows) and not set(dls.train_rows) & set(range(4))
    assert not set(dls.valid_rows) & (set(range(4)) | set(dls.train_rows))
    assert in_test_split(table.df).tolist() == [i < 4 for i in range(20)]


def test_a_fold_that_is_not_there_is_refused():
    table = ClipTable(dict(path=[f"{i}.wav" for i in range(10)], fold=[1, 2] * 5))
    with pytest.raises(TableError, match="no clip in fold 7. Choose one of 1, 2."): split_table(table, fold=7)


def test_rows_named_valid_do_not_train_where_the_others_have_no_name():
    table = ClipTable(dict(path=[f"{i}.wav" for i in range(10)], split=["valid"] * 3 + [""] * 7))
    assert [p.tolist() for p in split_table(table)] == [[*range(3, 10)], [0, 1, 2]]


def test_split_share_and_singles():
    table = ClipTable(dict(path=[f"{i}.wav" for i in range(200)], label=["a", "b"] * 100))
    train, held = split_by_source(table, 0.2)
    assert len(held) == 40 and (table.df.label[held] == "a").sum() == 20
    folds = ClipTable(dict(path=list("abcde"), fold=[1, 2, 3, 4, 5]))
    assert split_table(folds)[1].tolist() == [4] and split_by_fold(folds, [1, 2])[1].tolist() == [0, 1]
    with pytest.raises(TableError, match="fold 9"):
        split_by_fold(folds, 9)


# --- procedural sounds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(PROCEDURAL))
def test_procedural(kind):
    for rate, seconds in [(8000, 1.0), (44100, 0.5), (22050, 2.0)]:
        x, params = procedural_sound(kind, seconds, rate, seed=7, return_params=True)
        assert x.shape == (1, round(seconds * rate)) and x.dtype == torch.float32 and torch.isfinite(x).all()
        assert 0.05 < x.abs().max() < 1 and set(params) == set(PROCEDURAL[kind].ranges)
        assert torch.equal(x, procedural_sound(kind, seconds, rate, seed=7, **params))
    assert not torch.equal(procedural_sound(kind, 1.0, seed=1), procedural_sound(kind, 1.0, seed=2))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(PROCEDURAL)), st.integers(0, 2**31), st.floats(0.25, 1.5))
def test_procedural_is_never_clipped_nor_broken(kind, seed, seconds):
    x = procedural_sound(kind, seconds, 16000, seed)
    assert torch.isfinite(x).all() and x.abs().max() <= 1


def test_fixing_one_parameter_keeps_the_others():
    _, free = procedural_sound("dog_bark", 0.5, seed=3, return_params=True)
    _, fixed = procedural_sound("dog_bark", 0.5, seed=3, return_params=True, size=0.1)
    assert fixed.pop("size") == 0.1 != free.pop("size") and fixed == free
    with pytest.raises(TableError, match="no procedural sound 'cow'"):
        procedural_sound("cow")


def test_pops_keep_time_and_pitch():
    x = procedural_sound("pops", 2.0, 16000, seed=0, rate=8, low=69, high=69)[0]
    spectrum = torch.fft.rfft(x).abs()
    assert abs(spectrum.argmax().item() / 2 - 440) < 9
    energy = x.square().reshape(-1, 500).sum(1).reshape(-1, 4)[1:]  # beats of 2000 samples, quarters of 500
    assert (energy[:, 0] > energy[:, 3]).all()


def test_pops_are_as_loud_as_the_published_ones():
    def rms(rate):
        made = [procedural_sound("pops", 10, 16000, seed=s, rate=rate) for s in range(4)]
        return np.mean([x.square().mean().sqrt() for x in made])

    assert abs(rms(4) / 0.0385 - 1) < 0.3 and abs(rms(32) / 0.112 - 1) < 0.3
    first = procedural_sound("pops", 1, 16000, seed=0, rate=8)[0].abs()
    assert abs((first > 0.2 * first.max()).nonzero()[0].item() / 16000 - 1 / 8) < 0.003  # after one period


def test_make_procedural_is_deterministic(tmp_path):
    a = make_procedural(tmp_path / "a", ["rain", "pops"], 3, 0.3, seed=5, n_jobs=2)
    b = make_procedural(tmp_path / "b", ["rain", "pops"], 3, 0.3, seed=5, n_jobs=1)
    assert all(x.read_bytes() == y.read_bytes() for x, y in zip(a.files(), b.files()))
    assert a.df.source.nunique() == 6 and len(a.shippable()) == 6
    fixed = make_procedural(tmp_path / "c", ["pops"], 2, 0.3, rate=[4, 32])
    p = load_params(fixed.root / fixed.df.params[0])["rate"]
    assert p["values"] == [0.0, 1.0] and p["origMinval"] == 2 and p["origMaxval"] == 5


@pytest.mark.parametrize("suffix,kind", [("oga", "OGG"), ("aif", "AIFF"), ("aifc", "AIFF"), ("w64", "W64"), ("caf", "CAF"), ("rf64", "RF64"),
                                         ("snd", "AU"), ("voc", "VOC"), ("wave", "WAV"), ("nist", "NIST"), ("sf", "IRCAM"), ("paf", "PAF"),
                                         ("svx", "SVX"), ("avr", "AVR"), ("pvf", "PVF"), ("htk", "HTK"), ("flac", "FLAC"), ("mp3", "MP3")])
def test_whatever_libsndfile_reads_is_a_clip(tmp_path, suffix, kind):
    (tmp_path / "ui").mkdir()
    with open(tmp_path / f"ui/x.{suffix}", "wb") as f: sf.write(f, np.full(8000, 0.25), 8000, format=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = open_dataset(tmp_path).check()
    assert len(table) == 1 and not table.skipped


def test_opus_is_a_clip(tmp_path):
    (tmp_path / "ui").mkdir()
    with open(tmp_path / "ui/x.opus", "wb") as f: sf.write(f, np.full(48000, 0.25), 48000, format="OGG", subtype="OPUS")
    table = open_dataset(tmp_path).check()
    assert len(table) == 1 and not table.skipped and read_audio(table.file(0))[0].shape[-1] == 48000


def test_every_file_that_is_left_out_is_named(tmp_path):
    tone(tmp_path / "kick/a.wav")
    for name in ("kick/b.wv", "kick/c.M4A", "ui/d.wv"): text(tmp_path / name, "x")
    with open(os.fsencode(tmp_path / "kick") + b"/\xff.wav", "wb") as f: f.write((tmp_path / "kick/a.wav").read_bytes())
    with pytest.warns(UserWarning) as said: table = open_dataset(tmp_path)
    assert "4 files left out" in str(said[-1].message) and "among its 1 files (.wv)" in str(said[0].message)
    assert [p for p, _ in table.skipped] == ["ui", "kick/b.wv", "kick/c.M4A", "kick/\\xff.wav", "ui/d.wv"]
    reasons = " ".join(why for _, why in table.skipped)
    assert "WavPack is not read. Convert it" in reasons and "name is not UTF-8. Rename it" in reasons and len(table) == 1
    (tmp_path / "kick/a.wav").unlink()
    with pytest.raises(TableError, match=r"no clips found(.|\n)*4 files left out(.|\n)*b.wv: WavPack is not read"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_dataset(tmp_path)


def test_sounds_are_read_below_a_folder_whose_name_is_not_utf8(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfc"))
    tone(odd / "kick/a.wav")
    table = read_folder(odd).check()
    assert len(table) == 1
    with pytest.raises(TableError, match=r"is no text in UTF-8. Rename it"): table.save(tmp_path / "clips.csv")


@pytest.mark.parametrize("column", ["label", "path", "source"])
@pytest.mark.parametrize("odd", ["\0", "a\0b", "\udcff"])
def test_what_a_table_cannot_hold_is_refused(column, odd):
    with pytest.raises(TableError, match=f"{column} of row 1 is .*Rename it"):
        ClipTable({"path": ["a.wav", "b.wav"], column: ["x", odd]})


@pytest.mark.parametrize("how", [dict(seconds=1e-5), dict(overlap=0.9999), dict(seconds=float("inf")),
                                 dict(seconds=0.01, overlap=0.95)])
def test_slices_have_a_bound(tmp_path, how, monkeypatch):
    monkeypatch.setattr(clip_tables, "MOST_CLIPS", 1000)
    tone(tmp_path / "a/x.wav", 1.0)
    with pytest.raises(TableError, match="about [12].* clips of .*more than 1,000. Make them longer|overlap from 0 to 0.95"):
        ClipTable(dict(path=["a/x.wav"] * 12), tmp_path).sliced(**dict(seconds=0.1) | how)
    with pytest.raises(TableError, match="about 2,000 clips"): make_procedural(tmp_path, ["rain", "rain", "pops"], n=1000)


def test_a_kind_named_twice_is_made_once(tmp_path):
    table = make_procedural(tmp_path, ["rain", "pops", "rain"], n=2, seconds=0.1, n_jobs=1)
    assert len(table) == 4 and not table.df.path.duplicated().any()


def test_classes_can_be_told_apart():
    "Nearest class mean over log-mel statistics: far above chance (1 in 8)"
    from foleybook.audio_features import log_mel

    def look(kind, seed):
        m = log_mel(procedural_sound(kind, 2.0, seed=seed), MEL)[0]
        return torch.cat([m.mean(1), m.std(1), m.diff(dim=1).abs().mean(1)])

    seen = torch.stack([torch.stack([look(k, s) for s in range(6)]) for k in PROCEDURAL])
    new = torch.stack([torch.stack([look(k, s) for s in range(6, 10)]) for k in PROCEDURAL])
    scale = seen.flatten(0, 1).std(0)
    guess = torch.cdist((new / scale).flatten(0, 1), (seen.mean(1) / scale)).argmin(1).reshape(len(PROCEDURAL), -1)
    assert (guess == torch.arange(len(PROCEDURAL))[:, None]).float().mean() > 0.7


# --- loaders ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    table = make_procedural(folder, ["pops", "rain", "keyboard"], 8, 0.8)
    return MelCache.build(table, MEL, 0.8, folder / "cache", progress=False)


@pytest.mark.parametrize("rate", [1000, 192000, 7999, 44099, 48001, 767999])
def test_any_rate_resamples_in_bounded_memory(tmp_path, rate):
    "A quarter of a second at odd rates, with 1.5 GiB for everything beyond what the process begins with"
    t = torch.arange(rate // 4) / rate
    write_audio(tmp_path / "x.wav", 0.3 * torch.sin(2 * torch.pi * 100 * t)[None], rate)
    code = f"""
import resource, torch, torchaudio.functional
from foleybook.core.sound_files import read_audio
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**29,) * 2)
x, _ = read_audio({str(tmp_path / 'x.wav')!r}, 22050)
assert abs(x.shape[1] - 22050 // 4) <= 25, x.shape
assert abs(x[0, 500:-500].square().mean().sqrt() - .3 / 2**.5) < .01
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-500:]


def test_trim():
    x = torch.cat([torch.zeros(2, 500), torch.ones(2, 100), torch.zeros(2, 5000)], 1)
    assert trim_silence(x, 1000, keep=0.05).shape == (2, 200)


def test_mel_dls(cache):
    dls = mel_dls(cache, bs=4, frames=20, seed=3)
    x, y = dls.one_batch()
    assert isinstance(x, TensorMel) and x.shape == (4, 80, 20) and y.max() < 3
    assert dls.vocab == ["keyboard", "pops", "rain"]
    assert len(dls.train) == len(dls.train_rows) // 4 and dls.mel == MEL
    epoch = [mel_dls(cache, bs=4, frames=20, seed=3).train for _ in range(2)]
    runs = [[torch.cat([b[0] for b in dl]) for _ in range(2)] for dl in epoch]
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[0][1])
    late = mel_dls(cache, bs=4, frames=20, seed=3).train
    late.epoch = 1
    assert torch.equal(torch.cat([b[0] for b in late]), runs[0][1])  # the epoch number is the whole state
    assert len(mel_dls(cache, bs=4, n=40).train) == 10
    new = dls.train.new(shuffle=False, drop_last=False)
    assert sum(len(b[0]) for b in new) == len(dls.train_rows)


def test_epochs_of_n_items_cover_all(cache):
    dl = mel_dls(cache, bs=1, valid_idx=[0], n=7).train
    seen = [p % len(dl.rows) for _ in range(46) for p in dl.get_idxs()]
    assert set(np.bincount(seen)) == {14}  # 46 * 7 = 322 = 14 passes over 23


def test_valid_idx_counts_table_rows(tmp_path):
    table = make_procedural(tmp_path, ["pops"], 5, 0.5)
    text(table.file(1), "broken")
    with pytest.warns(UserWarning, match="1 of 5"):
        dls = mel_dls(table, MEL, 0.5, bs=1, valid_idx=[3], cache_dir=tmp_path / "c", progress=False)
    assert dls.cache.index.df.source[dls.valid_rows[0]] == table.df.source[3] and len(dls.train_rows) == 3


def test_wave_dls(tmp_path, cache):
    table = cache.index
    dls = wave_dls(table, 16000, 0.1, bs=4, clip_seconds=0.5, cache_dir=tmp_path, progress=False)
    x, y = dls.one_batch()
    assert isinstance(x, TensorAudio) and x.shape == (4, 1, 1600) and torch.equal(x, y) and x.abs().max() <= 1
    dls = wave_dls(dls.cache, 16000, 0.1, bs=4, target="label")
    assert dls.one_batch()[1].max() < 3 and isinstance(dls.cache, WaveCache)


@pytest.mark.parametrize("kind", ["mel", "wave", "conditions"])
def test_workers_give_the_same_batches(tmp_path, kind):
    table = make_procedural(tmp_path, ["pops", "rain"], 9, 0.8, rate=[4, 32])
    table = table.filter(label="pops") if kind == "conditions" else table

    def loaders(workers):
        common = dict(bs=3, seed=4, workers=workers, cache_dir=tmp_path / "c", device="cpu", progress=False)
        if kind == "wave":
            return wave_dls(table, 16000, 0.1, clip_seconds=0.8, **common)
        asked = ClipConditions(controls=("rate", "irreg")) if kind == "conditions" else None
        return mel_dls(table, MEL, 0.8, frames=20, conditions=asked, **common)

    def flat(b):
        return [b[0], *(b[1].tensors().values() if kind == "conditions" else [b[1]])]

    here, there = loaders(0), loaders(2)
    assert there.train.fake_l.num_workers == 2 and there.train.new().fake_l.num_workers == 2
    for part in ("train", "valid", "train"):  # the second epoch too
        a, b = list(getattr(here, part)), list(getattr(there, part))
        assert len(a) == len(b) > 0 and all(type(x[0]) is type(y[0]) for x, y in zip(a, b))
        assert all(torch.equal(u, v) for x, y in zip(a, b) for u, v in zip(flat(x), flat(y), strict=True))


def test_workers_give_the_same_steps_of_training(cache):
    from foleybook.training import StepDL

    def epochs(workers):
        dl = StepDL(mel_dls(cache, bs=4, frames=20, seed=3, workers=workers, device="cpu").train, 5, seed=7)
        for dl.epoch in range(2):
            yield from dl

    here, there = list(epochs(0)), list(epochs(2))
    assert len(here) == len(there) == 10
    assert all(torch.equal(u, v) for x, y in zip(here, there) for u, v in zip(x, y, strict=True))


def test_cache_travels_to_another_process(cache):
    back = pickle.loads(pickle.dumps(cache))
    assert isinstance(back.memory, np.memmap) and np.array_equal(back.mels, cache.mels) and len(pickle.dumps(cache)) < 2000


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("rows", [None, [3, 1, 7, 8, 20]])
def test_streamed_mean_and_spread_are_those_of_the_whole(cache, tmp_path, chunk, rows):
    x = torch.from_numpy(np.array(cache.mels)).double()[slice(None) if rows is None else rows]
    got, bands = cache.mean_std(rows, chunk=chunk), cache.mean_std(rows, per_band=True, chunk=chunk)
    assert torch.allclose(got.mean, x.mean(), rtol=1e-12) and torch.allclose(got.std, x.std(), rtol=1e-12)
    x = x.movedim(1, 0).flatten(1)
    assert torch.allclose(bands.mean, x.mean(1), rtol=1e-12) and torch.allclose(bands.std, x.std(1), rtol=1e-12)
    waves = WaveCache.build(cache.index, 16000, 0.4, tmp_path, progress=False)
    w = torch.from_numpy(np.array(waves.waves)).double() / 32767
    assert torch.allclose(waves.mean_std(chunk=chunk).std, w.std(), rtol=1e-12)


def test_mean_and_spread_do_not_load_the_set(cache, monkeypatch):
    most = []
    real = type(cache.array).__getitem__
    monkeypatch.setattr(type(cache.array), "__getitem__", lambda s, i: most.append(len(i)) or real(s, i))
    monkeypatch.setattr(type(cache.array), "__array__", None)
    cache.mean_std(chunk=4)
    assert max(most) == 4 and sum(most) == len(cache)


def rising(folder, n=6, seconds=2.0, rate=20.0):
    "Clips whose mel, features and track all say how many seconds have passed"
    frames = MEL.frames(round(seconds * MEL.sample_rate))
    mel_time = np.arange(frames) * MEL.hop_length / MEL.sample_rate
    for i in range(n):
        np.save(folder / f"{i}.npy", np.tile(mel_time, (80, 1)).astype(np.float32))
        t = np.arange(round(seconds * rate), dtype=np.float32) / rate
        np.save(folder / f"{i}_rgb.npy", np.stack([t, np.full_like(t, i)], 1))
        (folder / f"{i}_flow.pkl").write_bytes(pickle.dumps(t[:, None] * 2))
        write_params(folder / f"{i}.params", dict(time=([0, seconds], [0, seconds])))
    name = lambda end: [f"{i}{end}" for i in range(n)]
    return ClipTable(dict(path=name(".npy"), label=list("ab") * (n // 2), rgb=name("_rgb.npy"), flow=name("_flow.pkl"),
                          params=name(".params"), source=name("")), folder)


def test_conditions_are_read_for_the_crop_that_was_drawn(tmp_path):
    asked = ClipConditions(features=("rgb", "flow"), feature_rate=20.0, controls=("time",), control_rate=40.0)
    dls = mel_dls(rising(tmp_path), MEL, 2.0, bs=2, frames=43, seed=1, conditions=asked, cache_dir=tmp_path / "c",
                  progress=False, device="cpu", valid=0.4)
    seen = set()
    for _ in range(3):
        for x, cond in dls.train:
            assert cond.kinds == {"label", "features", "controls"} and len(cond) == 2
            assert [dls.vocab[i] for i in cond.label] == cond.names
            start, length = x[:, 0, 0], 43 * MEL.hop_length / MEL.sample_rate
            assert cond.features.shape == (2, round(length * 20), 3) and cond.controls["time"].shape == (2, round(length * 40))
            assert (cond.features[:, 0, 0] - start).abs().max() < 1 / 20  # the frame that is seen then
            assert torch.allclose(cond.features[..., 0].diff(dim=1), torch.tensor(0.05), atol=1e-5)
            assert torch.allclose(cond.features[..., 2], 2 * cond.features[..., 0], atol=1e-5)
            assert (cond.controls["time"][:, 0] - start).abs().max() < 1e-4
            seen |= set(start.tolist())
    assert len(seen) > 4  # crops, not always the same


def test_short_clips_are_looped_with_their_conditions(tmp_path):
    table = rising(tmp_path, 2, seconds=1.0)
    cond = ClipConditions(features=("rgb",), feature_rate=20.0, controls=("time",), control_rate=20.0).read(
        table, [0, 1], np.array([0.0, 0.5]), 2.0)
    assert torch.allclose(cond.features[0, :, 0], torch.arange(40) % 20 / 20) and cond.label is None
    assert torch.allclose(cond.controls["time"][1], (torch.arange(40) + 10) % 20 / 20, atol=1e-6)
    part = ClipTable(table.df.assign(start=0.5, seconds=0.25), table.root)
    cond = ClipConditions(features=("rgb",), feature_rate=20.0).read(part, [1], 0.0, 0.5)
    assert torch.allclose(cond.features[0, :, 0], torch.tensor([0.5, 0.55, 0.6, 0.65, 0.7] * 2))


def test_conditions_say_what_is_missing(tmp_path):
    table = rising(tmp_path, 2)
    for asked, says in [(ClipConditions(features=("resnet50",)), "no 'resnet50' for it"),
                        (ClipConditions(controls=("size",)), "0.params: no parameter 'size'")]:
        with pytest.raises(TableError, match=says):
            asked.read(table, [0])
    trimmed = MelCache.build(table, MEL, 2.0, tmp_path / "c", progress=False)
    with pytest.raises(CacheError, match="no longer fit. Build it with trim=False"):
        mel_dls(trimmed, conditions=ClipConditions(features=("rgb",)))
    y = mel_dls(trimmed, bs=1, conditions=ClipConditions(), device="cpu").one_batch()[1]
    assert y.kinds == {"label"}


def test_conditions_go_to_the_device_of_the_loader(tmp_path):
    dls = mel_dls(rising(tmp_path), MEL, 2.0, bs=2, conditions=ClipConditions(), cache_dir=tmp_path / "c",
                  progress=False, device="cpu")
    dls.train.after_batch.fs[-1].to("meta")
    assert dls.train.one_batch()[1].label.device.type == "meta"


def test_learner_learns_from_conditions(tmp_path):
    from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives learn.no_bar)
    from fastai.learner import Learner
    from torch import nn

    dls = mel_dls(rising(tmp_path), MEL, 2.0, bs=2, frames=20, cache_dir=tmp_path / "c", progress=False, device="cpu",
                  conditions=ClipConditions(features=("rgb",), feature_rate=20.0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(80, 1))
    learn = Learner(dls, net, loss_func=lambda p, cond: (p[:, 0] - cond.features[:, 0, 0]).square().mean())
    with learn.no_bar(), learn.no_logging():
        learn.fit(30, 3e-3)
    assert learn.recorder.values[-1][1] < 0.02  # s^2, of starts within 1.8 s: chance is .27


def test_learner_runs(cache):
    from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives learn.no_bar)
    from fastai.learner import Learner
    from torch import nn

    net = nn.Sequential(nn.Flatten(), nn.Linear(80 * 16, 3))
    learn = Learner(mel_dls(cache, bs=4, frames=16, device="cpu"), net, loss_func=nn.CrossEntropyLoss())
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-3)
    preds, targets = learn.get_preds()
    assert len(preds) == len(targets) == len(learn.dls.valid_rows)


def test_distributed_ranks_share_an_epoch(cache, monkeypatch):
    from fastai.distributed import DistributedDL

    monkeypatch.setattr(DistributedDL, "_broadcast", lambda self, t, rank: t)
    parts = [DistributedDL(mel_dls(cache, bs=2, seed=1, drop_last=False).train, rank=r, world_size=2) for r in range(2)]
    whole = mel_dls(cache, bs=2, seed=1).train
    rows = [torch.cat([y for _, y in dl]) for dl in parts]
    assert len(rows[0]) == len(rows[1])
    assert torch.equal(torch.cat(rows)[: len(whole.rows)].sort()[0], whole.classes.sort()[0])


# --- data scripts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch, capsys):
    "Run a script of data_scripts as its command line would: exit code and what it printed"

    def run(name, *args):
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        monkeypatch.setattr(sys, "path", [str(ROOT / "data_scripts"), *sys.path])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "data_scripts" / name), run_name="__main__")
        return end.value.code or 0, capsys.readouterr()

    return run


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "data_scripts").glob("[a-z]*.py")))
def test_scripts_have_help(script, name):
    code, said = script(name, "--help")
    assert code == 0 and "--to" in said.out


def test_script_as_a_program(tmp_path):
    tone(tmp_path / "recordings/7_jackson_32.wav", rate=8000), tone(tmp_path / "recordings/0_theo_1.wav", rate=8000)
    options = ["--from", str(tmp_path), "--to", str(tmp_path / "t"), "--check"]
    command = [sys.executable, str(ROOT / "data_scripts/fsdd.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0 and "2 of 2 clips, 2 labels: seven, zero" in done.stdout, done.stderr


@pytest.mark.parametrize("name,clips,free", [("esc10", 400, 398), ("fsdd", 3000, 3000)])
def test_scripts_from_local_copy(tmp_path, script, name, clips, free):
    data = Path(os.environ.get("FOLEYBOOK_DATA") or "none") / name
    if not data.exists():
        pytest.skip(f"no recordings at {data}")
    for options, want in [([], clips), (["--shippable"], free)]:
        code, said = script(f"{name}.py", "--from", data, "--to", tmp_path, *options)
        table = ClipTable.read(tmp_path / "clips.csv")
        assert code == 0 and len(table) == want and table.file(0).exists() and len(table.labels) == 10


def test_oneshots_script(tmp_path, script):
    data = Path(os.environ.get("FOLEYBOOK_DATA") or "none")
    if not (data / "esc50_more").exists():
        pytest.skip(f"no recordings at {data}")
    code, said = script("oneshots.py", "--from", data, "--to", tmp_path)
    shots = ClipTable.read(tmp_path / "clips.csv")
    assert code == 0 and len(shots.labels) == 6 and shots.file(0).exists() and len(shots.shippable()) == len(shots)
    assert shots.df.seconds.between(0.1, 0.6).all() and shots.df.groupby("source").split.nunique().max() == 1
    assert (shots.df.groupby("path").start.diff().dropna() > 0.1).all()  # one behind the other, none twice


def test_clips_without_a_licence_are_not_taken_for_free(tmp_path):
    from foleybook.core.data_sets import read_free_kinds

    data = Path(os.environ.get("FOLEYBOOK_DATA") or "none")
    if not (data / "esc50_more").exists():
        pytest.skip(f"no recordings at {data}")
    (tmp_path / "esc10").symlink_to(data / "esc10")
    (tmp_path / "esc50_more").mkdir()
    for kind in (d for d in (data / "esc50_more").iterdir() if d.is_dir()):
        (tmp_path / "esc50_more" / kind.name).symlink_to(kind)
    table = pd.read_csv(data / "esc50_more/clips.csv")
    table.to_csv(tmp_path / "esc50_more/clips.csv", index=False)
    assert len(read_free_kinds(tmp_path)) == len(read_free_kinds(data))
    table.loc[3, "licence"] = "CC BY-NC 3.0"
    for told, first in ((table, "CC BY-NC 3.0"), (table.drop(columns="licence"), "none")):
        told.to_csv(tmp_path / "esc50_more/clips.csv", index=False)
        with pytest.raises(TableError, match=rf"no free licence, the first is esc50_more/.*\({first} in the table"):
            read_free_kinds(tmp_path)


def test_procedural_script(tmp_path, script):
    few = ["--n", 2, "--seconds", 0.3, "--kinds", "pops", "rain", "--quiet"]
    code, said = script("procedural.py", "--to", tmp_path, *few)
    assert code == 0 and len(open_dataset(tmp_path)) == 4
    code, said = script("procedural.py", "--to", tmp_path, "--kinds", "cow")
    assert code == 1 and "no procedural sound 'cow'" in said.err


def test_scripts_say_what_is_wrong(tmp_path, script):
    code, said = script("ljspeech.py", "--from", tmp_path, "--to", tmp_path / "t")
    assert code == 1 and "metadata.csv" in said.err


@pytest.fixture(scope="module")
def fetch():
    sys.path.insert(0, str(ROOT / "data_scripts"))
    import _fetch

    yield _fetch
    sys.path.remove(str(ROOT / "data_scripts"))


@pytest.fixture
def server():
    "A server of 300,000 bytes that understands Range and can break off"
    body = np.random.default_rng(0).bytes(300_000)

    class Handler(BaseHTTPRequestHandler):
        log, stop_at, ranges = [], None, True

        def do_GET(self):
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.ranges else 0
            Handler.log.append(start)
            if start >= len(body):
                self.send_response(416), self.send_header("Content-Range", f"bytes */{len(body)}")
                return self.end_headers()
            self.send_response(206 if start else 200), self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : Handler.stop_at])

        def log_message(self, *args):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/set.bin", body, Handler
    http.shutdown()


def test_download_goes_on_where_it_stopped(tmp_path, fetch, server, capsys):
    url, body, handler = server
    handler.stop_at = 100_000
    with pytest.raises(fetch.FetchError, match="run again|Run again"):
        fetch.download(url, tmp_path, quiet=True)
    assert not (tmp_path / "set.bin").exists() and (tmp_path / "set.bin.part").stat().st_size == 100_000
    handler.stop_at = None
    path = fetch.download(url, tmp_path, size=len(body), quiet=True)
    assert path.read_bytes() == body and handler.log == [0, 100_000]
    assert "no checksum is published" in capsys.readouterr().out and (tmp_path / "set.bin.sha256").exists()
    fetch.download(url, tmp_path, quiet=True)
    assert len(handler.log) == 2  # verified from the record, not fetched
    path.write_bytes(body[:-1] + b"x")
    with pytest.raises(fetch.FetchError, match="sha256 is"):
        fetch.download(url, tmp_path, quiet=True)


def test_download_from_a_server_without_ranges(tmp_path, fetch, server):
    url, body, handler = server
    (tmp_path / "set.bin.part").write_bytes(b"old")
    handler.ranges = False
    assert fetch.download(url, tmp_path, quiet=True).read_bytes() == body
    handler.ranges = True
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/set.bin.part").write_bytes(body)  # broke off between the last byte and the renaming
    assert fetch.download(url, tmp_path / "whole", quiet=True).read_bytes() == body


def test_download_with_wrong_checksum(tmp_path, fetch, server):
    with pytest.raises(fetch.FetchError, match="md5 is .* expected"):
        fetch.download(server[0], tmp_path, md5="0" * 32, quiet=True)
    with pytest.raises(fetch.FetchError, match="cannot be fetched"):
        fetch.download("http://127.0.0.1:9/x.bin", tmp_path, quiet=True)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_unpack_stays_inside(tmp_path, fetch, kind):
    import zipfile

    text(tmp_path / "a.txt", "hello")

    def pack(name, members):
        if kind == "tar":
            with tarfile.open(tmp_path / name, "w") as t:
                for m in members:
                    t.add(tmp_path / "a.txt", m)
        else:
            with zipfile.ZipFile(tmp_path / name, "w") as z:
                for m in members:
                    z.write(tmp_path / "a.txt", m)
        return tmp_path / name

    out = fetch.unpack(pack("good", ["top/x/a.txt", "top/b.txt"]), tmp_path / "out", strip=1)
    assert (out / "x/a.txt").read_text() == "hello" and (out / "b.txt").exists()
    for i, bad in enumerate(["../evil.txt", "x/../../evil.txt"]):
        with pytest.raises(fetch.FetchError, match="outside"):
            fetch.unpack(pack(f"bad{i}", [bad]), tmp_path / "in/out")
    assert not (tmp_path / "in/evil.txt").exists()


def test_unpack_refuses_links(tmp_path, fetch):
    with tarfile.open(tmp_path / "l.tar", "w") as t:
        link = tarfile.TarInfo("etc")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        t.addfile(link)
    with pytest.raises(fetch.FetchError, match="link or device"):
        fetch.unpack(tmp_path / "l.tar", tmp_path / "out")
