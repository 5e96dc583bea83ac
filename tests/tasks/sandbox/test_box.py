import os

import pytest

from tasks.sandbox import Box, SandboxError, SandboxFactory


def test_shell_state_survives_between_commands(box: Box) -> None:
    assert box.run("cd deep; X=7; f() { echo f$X; }").exit_code == 0
    assert box.run("cat b.txt; f").output == "three\nf7\n"


def test_output_merges_stdout_and_stderr_in_order(box: Box) -> None:
    assert box.run("echo a; echo b >&2; echo c").output == "a\nb\nc\n"


def test_exit_codes_arrive(box: Box) -> None:
    assert [box.run(f"(exit {code})").exit_code for code in (0, 1, 3, 255)] == [0, 1, 3, 255]
    assert box.run("no-such-program").exit_code == 127


def test_commands_read_nothing(box: Box) -> None:
    assert box.run("cat; read line; echo $?").output == "1\n"


@pytest.mark.parametrize("broken", ["echo 'open", "for x in", "if", ")", "cat <<X"])
def test_broken_syntax_leaves_the_shell_serving(box: Box, broken: str) -> None:
    box.run(broken)
    assert box.run("echo well").output == "well\n"


def test_quotes_newlines_and_unicode_arrive_unchanged(box: Box) -> None:
    assert box.run("printf '%s\n' 'a  \"b\" $c'\necho 'é漢'").output == 'a  "b" $c\né漢\n'


def test_output_cannot_imitate_the_end_of_a_command(box: Box) -> None:
    result = box.run("printf 'ready\\n'; for i in 1 2 3; do printf '%s 0\\n' 0123456789abcdef; done; (exit 4)")
    assert result.exit_code == 4
    assert result.output.count("\n") == 4
    assert box.run("echo next").output == "next\n"


def test_commands_inherit_no_descriptor_but_their_three(box: Box) -> None:
    listing = box.run("exec 3<&-; ls /proc/self/fd").output.split()
    assert listing == ["0", "1", "2", "3"]  # 3 is the folder that ls itself has open


@pytest.mark.skipif(os.geteuid() != 0, reason="without root the pipes belong to the box's own user")
def test_child_processes_cannot_reach_the_answer(box: Box) -> None:
    result = box.run('for fd in /proc/1/fd/*; do bash -c "echo 0123456789abcdef 0 >$fd"; done 2>/dev/null; (exit 6)')
    assert result.exit_code == 6
    assert box.run("echo alive").output == "alive\n"


def test_an_answer_without_the_nonce_ends_the_box(box: Box) -> None:
    forge = 'for fd in 10 11 12 13; do echo "0123456789abcdef 0" >&$fd; done 2>/dev/null; sleep 90'
    result = box.run(forge, 60)
    assert (result.exit_code, result.timed_out) == (137, False)
    assert box.run("echo alive").exit_code == 137


def test_standard_streams_can_be_opened_by_name(box: Box) -> None:
    assert box.run("echo a >/dev/stdout; echo b >/dev/stderr; echo c | tee /dev/fd/2").output == "a\nb\nc\nc\n"


def test_exit_ends_the_box_with_its_code_and_files_stay_collectable(box: Box) -> None:
    assert box.run("echo kept >out.txt; exit 5").exit_code == 5
    assert box.run("echo more").exit_code == 137
    assert box.collect(["out.txt"]) == {"out.txt": b"kept\n"}


def test_the_shell_cannot_be_killed_from_inside(box: Box) -> None:
    box.run("kill -9 1; kill -9 $$; kill -TERM -1")
    assert box.run("echo alive").output == "alive\n"


def test_background_work_does_not_hold_a_command_up(box: Box) -> None:
    result = box.run("sleep 60 & echo started", 30)  # which would end a command that waits for it
    assert (result.exit_code, result.output) == (0, "started\n")


def test_report_descriptor_is_separate_from_output(factory: SandboxFactory) -> None:
    with factory.box({}, report=True) as box:
        result = box.run("echo seen; echo told >&9")
        assert (result.output, result.report) == ("seen\n", b"told\n")
        assert box.run("echo again").report == b""


def test_a_command_longer_than_a_pipe_is_refused(box: Box) -> None:
    assert box.run("echo " + "x" * 100_000).exit_code == 126
    assert box.run("echo well").output == "well\n"


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", "a//b", "."])
def test_file_paths_stay_in_the_box_folder(factory: SandboxFactory, path: str) -> None:
    with pytest.raises(SandboxError, match="must be relative"):
        factory.box({path: "x"})


def test_files_too_large_for_the_box_are_an_error_of_the_sandbox(factory: SandboxFactory) -> None:
    with pytest.raises(SandboxError, match="could not start a box"):
        factory.box({"big": b"x" * (5 << 20)})
