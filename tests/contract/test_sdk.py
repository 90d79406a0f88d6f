"""The published SDK drives the daemon over a port, unchanged: the life of a box, commands, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boxlite
import pytest

from tests.contract.listening import Listening
from tests.contract.sdk import FOREVER, needs, run, runtime, text_of

EXEC = ("POST", "/v1/boxes/{ref}/exec")
PUT_FILES = ("PUT", "/v1/boxes/{ref}/files")


def options(**more: Any) -> Any:
    return boxlite.BoxOptions(image="host", **{"cmd": FOREVER, **more})


def test_the_life_of_a_box(served: Listening) -> None:
    async def work() -> None:
        rest = runtime(served)
        box = await rest.create(options(), name="life")
        assert box.name == "life"
        info = await rest.get_info("life")
        assert (info.id, info.state.status, info.state.running, info.image) == (box.id, "configured", False, "host")
        await box.start()
        info = await rest.get_info(box.id)
        assert (info.state.status, info.state.running) == ("running", True)
        assert info.state.pid == served.daemon.get("life")["pid"]
        await box.start()  # again: left alone
        assert (await rest.get_info(box.id)).state.pid == info.state.pid
        metrics = await box.metrics()
        assert metrics.memory_bytes > 0
        assert metrics.cpu_percent >= 0
        await box.stop()
        assert (await rest.get_info(box.id)).state.status == "stopped"
        await rest.remove(box.id)
        assert await rest.get(box.id) is None
        assert await rest.get_info("life") is None

    run(work)


def test_boxes_are_listed_and_found_by_name_and_id(served: Listening) -> None:
    async def work() -> None:
        rest = runtime(served)
        made = {(await rest.create(options(), name=name)).id for name in ("found-a", "found-b")}
        listed = {info.id: info.name for info in await rest.list_info()}
        assert made <= set(listed)
        assert (await rest.get("found-a")).id in made
        again, created = await rest.get_or_create(options(), name="found-a")
        assert (again.id in made, created) == (True, False)
        other, created = await rest.get_or_create(options(), name="found-c")
        assert (other.id in made, created) == (False, True)
        assert await rest.get("found-nowhere") is None
        for name in ("found-a", "found-b", "found-c"):
            await rest.remove(name)

    run(work)


def test_the_network_of_a_box_is_on_unless_it_is_told_off(served: Listening) -> None:
    """The SDK asks for it; a create without `network` has none."""

    async def work() -> None:
        rest = runtime(served)
        await rest.create(options(), name="online")
        assert (await rest.get_info("online")).network.outbound.mode == "enabled"
        assert served.daemon.create(FOREVER, name="offline")["network"]["outbound"]["mode"] == "disabled"
        for name in ("online", "offline"):
            await rest.remove(name)

    run(work)


def test_what_was_asked_for_is_what_the_box_is(served: Listening) -> None:
    async def work() -> None:
        rest = runtime(served)
        network = boxlite.NetworkSpec(outbound=boxlite.OutboundNetworkSpec(mode="disabled"))
        box = await rest.create(
            options(cpus=1, memory_mib=256, env=[("WORD", "said")], working_dir="/tmp", entrypoint=["/bin/sh", "-c"],
                    cmd=["echo $WORD; pwd; exec sleep 987654"], network=network, auto_stop=60, auto_delete=120,
                    auto_resume=False),
            name="asked",
        )  # fmt: skip
        info = await rest.get_info(box.id)
        assert (info.cpus, info.memory_mib) == (1, 256)
        assert (info.auto_stop, info.auto_delete, info.auto_resume) == (60, 120, False)
        assert (info.network.outbound.mode, info.network.inbound.mode) == ("disabled", "disabled")
        await box.start()
        served.daemon.until_box("asked", lambda _: logs("asked") == "said\n/tmp\n", "says its word and directory")
        await rest.remove(box.id, force=True)

    def logs(name: str) -> str:
        return b"".join(served.daemon.client.logs(name)).decode()

    run(work)


def test_capabilities_are_asked_for_and_given(served: Listening) -> None:
    """The SDK sends them only to a server that says it honours them."""

    async def work() -> None:
        rest = runtime(served)
        wish = boxlite.ContainerCapabilities(add=["sys_nice"], drop=["NET_RAW"])
        await rest.create(options(advanced=boxlite.AdvancedBoxOptions(capabilities=wish)), name="capable")
        await (await rest.get("capable")).start()
        await rest.remove("capable", force=True)

    run(work)


def test_a_box_that_died_and_one_that_could_not_start_are_shown(served: Listening) -> None:
    async def work() -> None:
        rest = runtime(served)
        box = await rest.create(options(cmd=["/bin/sh", "-c", "exit 7"]), name="died")
        await box.start()
        served.daemon.wait_status("died", "failed", "stopped")
        info = await rest.get_info("died")
        assert (info.state.running, info.state.exit_code) == (False, 7)
        absent = await rest.create(options(cmd=["/no/such/program"]), name="never")
        with pytest.raises(boxlite.InvalidArgumentError, match="'/no/such/program' cannot be executed in the box"):
            await absent.start()
        assert (await rest.get_info("never")).state.status == "failed"
        for name in ("died", "never"):
            await rest.remove(name)

    run(work)


def test_one_large_box_does_not_cost_the_whole_list(served: Listening) -> None:
    async def work() -> None:
        rest = runtime(served)
        served.daemon.create(FOREVER, name="large", cpus=300, memory_mib=64 * 1024 * 1024)
        assert "large" in {info.name for info in await rest.list_info()}
        await rest.remove("large")

    run(work)


def test_figures_of_the_runtime(served: Listening) -> None:
    async def work() -> None:
        rest = runtime(served)
        before = (await rest.metrics()).boxes_created_total
        await rest.create(options(), name="counted")
        assert (await rest.metrics()).boxes_created_total == before + 1
        await rest.remove("counted")
        await rest.shutdown()  # of the client: the daemon is not its own
        assert (await runtime(served).metrics()).boxes_created_total == before + 1

    run(work)


# ---- commands


@pytest.fixture(scope="module")
def working(served: Listening) -> Listening:
    """A running box to work in."""
    needs(served, *EXEC)
    served.daemon.run(FOREVER, name="working")
    return served


async def finished(served: Listening, *words: str, **more: Any) -> tuple[int, str, str]:
    """Run a command to its end: exit code, stdout, stderr."""
    box = await runtime(served).get("working")
    execution = await box.exec(words[0], list(words[1:]), **more)
    out, err = await text_of(execution.stdout()), await text_of(execution.stderr())
    return (await execution.wait()).exit_code, out, err


def test_a_command_streams_its_output_and_ends_with_its_code(working: Listening) -> None:
    async def work() -> None:
        code, out, err = await finished(working, "sh", "-c", "echo out; echo err >&2; exit 3")
        assert (code, out, err) == (3, "out\n", "err\n")
        assert (await finished(working, "true"))[0] == 0

    run(work)


def test_output_comes_while_the_command_runs_and_input_reaches_it(working: Listening) -> None:
    async def work() -> None:
        box = await runtime(working).get("working")
        execution = await box.exec("sh", ["-c", "echo ready; read word; echo got $word; cat; exit 5"])
        output = execution.stdout()
        assert "ready" in str(await anext(output))
        stdin = execution.stdin()
        await stdin.send_input(b"first\nrest")
        await stdin.close()
        assert (await text_of(output)).split() == ["got", "first", "rest"]
        assert (await execution.wait()).exit_code == 5

    run(work)


def test_environment_and_directory_of_a_command(working: Listening) -> None:
    async def work() -> None:
        code, out, _ = await finished(working, "sh", "-c", "echo $WORD; pwd", env=[("WORD", "x y")], cwd="/tmp")
        assert (code, out) == (0, "x y\n/tmp\n")

    run(work)


def test_a_command_whose_time_is_over_is_killed(working: Listening) -> None:
    async def work() -> None:
        box = await runtime(working).get("working")
        execution = await box.exec("sleep", ["987654"], timeout_secs=0.3)
        result = await execution.wait()
        assert result.exit_code != 0
        assert working.get(f"/v1/boxes/working/executions/{execution.id()}")["status"] == "timed_out"

    run(work)


def test_a_command_is_signalled_and_killed(working: Listening) -> None:
    async def work() -> None:
        box = await runtime(working).get("working")
        execution = await box.exec("sh", ["-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"])
        assert "ready" in str(await anext(execution.stdout()))
        await execution.signal(15)
        assert (await execution.wait()).exit_code == 9
        victim = await box.exec("sh", ["-c", "echo ready; exec sleep 987654"])
        assert "ready" in str(await anext(victim.stdout()))
        await victim.kill()
        assert (await victim.wait()).exit_code == 137

    run(work)


def test_a_terminal_has_the_size_that_it_is_given(working: Listening) -> None:
    async def work() -> None:
        box = await runtime(working).get("working")
        execution = await box.exec("sh", ["-c", "read word; stty size"], tty=True)
        await execution.resize_tty(33, 101)
        await execution.stdin().send_input(b"go\n")
        assert "33 101" in await text_of(execution.stdout())
        assert (await execution.wait()).exit_code == 0

    run(work)


def test_a_command_of_somebody_else_is_attached_to_from_its_beginning(working: Listening) -> None:
    body = {"command": "sh", "args": ["-c", "echo before; read word; echo $word; exit 8"]}
    execution_id = working.post("/v1/boxes/working/exec", body)["execution_id"]

    async def work() -> None:
        box = await runtime(working).get("working")
        execution = await box.attach(execution_id)
        await execution.stdin().send_input(b"after\n")
        assert (await text_of(execution.stdout())).split() == ["before", "after"]
        assert (await execution.wait()).exit_code == 8

    run(work)


def test_a_command_is_watched_without_a_say(working: Listening) -> None:
    body = {"command": "sh", "args": ["-c", "echo seen; exit 4"]}
    execution_id = working.post("/v1/boxes/working/exec", body)["execution_id"]

    async def work() -> None:
        execution = await (await runtime(working).get("working")).attach(execution_id, stdin=False)
        assert await text_of(execution.stdout()) == "seen\n"
        assert (await execution.wait()).exit_code == 4

    run(work)


def test_a_second_client_of_a_command_is_told_of_the_first(working: Listening) -> None:
    async def work() -> None:
        box = await runtime(working).get("working")
        execution = await box.exec("sh", ["-c", "echo ready; read word"])
        assert "ready" in str(await anext(execution.stdout()))
        with pytest.raises(boxlite.AlreadyExistsError, match=execution.id()):
            await box.attach(execution.id())
        await execution.kill()

    run(work)


def test_a_command_starts_a_box_that_does_not_run(working: Listening) -> None:
    async def work() -> None:
        rest = runtime(working)
        box = await rest.create(boxlite.BoxOptions(image="host"), name="lazy")
        execution = await box.exec("echo", ["awake"])
        assert await text_of(execution.stdout()) == "awake\n"
        assert (await rest.get_info("lazy")).state.running
        await rest.remove("lazy", force=True)

    run(work)


def test_a_program_that_is_not_there_is_said_to_be_so(working: Listening) -> None:
    async def work() -> None:
        box = await runtime(working).get("working")
        with pytest.raises(boxlite.InvalidArgumentError, match="'/no/such' cannot be executed in the box"):
            await box.exec("/no/such")
        with pytest.raises((boxlite.NotFoundError, boxlite.SessionReapedError), match="no-such-execution"):
            await box.attach("no-such-execution")

    run(work)


def test_the_simple_box_of_the_sdk_runs_a_command(working: Listening) -> None:
    async def work() -> None:
        async with boxlite.SimpleBox(image="host", runtime=runtime(working), name="simple", auto_remove=True) as box:
            result = await box.exec("sh", "-c", "echo simply; exit 4")
            assert (result.exit_code, result.stdout) == (4, "simply\n")

    run(work)


# ---- files


def test_a_file_goes_in_and_comes_out(working: Listening, tmp_path: Path) -> None:
    needs(working, *PUT_FILES)
    (tmp_path / "in.bin").write_bytes(bytes(range(256)) * 4096)

    async def work() -> None:
        box = await runtime(working).get("working")
        await box.copy_in(str(tmp_path / "in.bin"), "/root/renamed.bin")
        code, out, _ = await finished(working, "sh", "-c", "wc -c < /root/renamed.bin")
        assert (code, out.strip()) == (0, str(256 * 4096))
        await box.copy_out("/root/renamed.bin", str(tmp_path / "out.bin"))

    run(work)
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "in.bin").read_bytes()


def test_a_directory_goes_in_and_comes_out(working: Listening, tmp_path: Path) -> None:
    needs(working, *PUT_FILES)
    source = tmp_path / "source"
    (source / "deep" / "empty").mkdir(parents=True)
    (source / "deep" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (source / "deep" / "run.sh").chmod(0o755)
    (source / "link").symlink_to("deep/run.sh")

    async def work() -> None:
        box = await runtime(working).get("working")
        await box.copy_in(f"{source}/.", "/root/tree")
        assert (await finished(working, "/root/tree/link"))[:2] == (0, "ran\n")
        await box.copy_out("/root/tree/.", str(tmp_path / "back"))

    run(work)
    back = tmp_path / "back"
    assert (back / "deep" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (back / "deep" / "empty").is_dir()
    assert str((back / "link").readlink()) == "deep/run.sh"


def test_what_is_not_there_cannot_be_copied(working: Listening, tmp_path: Path) -> None:
    needs(working, *PUT_FILES)

    async def work() -> None:
        rest = runtime(working)
        with pytest.raises(boxlite.NotFoundError):
            await (await rest.get("working")).copy_out("/no/such/file", str(tmp_path / "nothing"))
        asleep = await rest.create(options(), name="asleep")
        with pytest.raises(boxlite.StoppedError):
            await asleep.copy_out("/etc/hostname", str(tmp_path / "nothing"))
        await rest.remove("asleep")

    run(work)
    assert not (tmp_path / "nothing").exists()
