# SPDX-License-Identifier: Apache-2.0
"""The judge of the proofs: what it lets pass, and what it does not."""

from proof.oracle import Oracle

OLD, NEW, NEWER = b"o" * 512, b"n" * 512, b"w" * 512
ZEROS = bytes(512)


def make(blocks=4):
    return Oracle(blocks * 512, 512)


def done(oracle, change):
    oracle.end(change)
    return change


def now(oracle, block=0):
    return set(oracle.legal(block, crashed=False))


def crashed(oracle, block=0):
    return set(oracle.legal(block, crashed=True))


def test_what_is_under_way_may_have_happened_or_not():
    oracle = make()
    change = oracle.write(0, NEW)
    assert now(oracle) == crashed(oracle) == {ZEROS, NEW}
    oracle.end(change)
    assert now(oracle) == {NEW}
    assert crashed(oracle) == {ZEROS, NEW}


def test_a_flush_covers_what_had_ended_before_it_began():
    oracle = make()
    done(oracle, oracle.write(0, OLD))
    late = oracle.write(512, OLD)
    flush = oracle.flush()
    oracle.end(late)
    done(oracle, oracle.write(0, NEW))
    oracle.end_flush(flush)
    assert crashed(oracle, 0) == {OLD, NEW}
    assert crashed(oracle, 1) == {ZEROS, OLD}


def test_fua_covers_its_own_blocks():
    oracle = make()
    done(oracle, oracle.write(512, OLD))
    oracle.end(oracle.write(0, NEW), fua=True)
    assert crashed(oracle, 0) == {NEW}
    assert crashed(oracle, 1) == {ZEROS, OLD}


def test_a_flush_that_failed_promises_nothing():
    oracle = make()
    done(oracle, oracle.write(0, NEW))
    oracle.flush()
    assert crashed(oracle) == {ZEROS, NEW}


def test_a_failed_change_may_have_happened_until_it_is_overwritten():
    oracle = make()
    oracle.fail(oracle.write(0, OLD))
    oracle.end_flush(oracle.flush())
    assert now(oracle) == crashed(oracle) == {ZEROS, OLD}
    done(oracle, oracle.write(0, NEW))
    assert now(oracle) == {NEW}
    assert crashed(oracle) == {ZEROS, OLD, NEW}
    oracle.end_flush(oracle.flush())
    assert crashed(oracle) == {NEW}


def test_changes_that_overlap_in_time_end_in_any_order():
    oracle = make()
    first, second = oracle.write(0, OLD), oracle.write(0, NEW)
    oracle.end(second)
    oracle.end(first)
    oracle.end_flush(oracle.flush())
    assert now(oracle) == crashed(oracle) == {OLD, NEW}
    done(oracle, oracle.write(0, NEWER))
    oracle.end_flush(oracle.flush())
    assert crashed(oracle) == {NEWER}


def test_a_part_of_a_block_lies_over_whatever_the_block_holds():
    oracle = make()
    oracle.fail(oracle.write(0, OLD))
    done(oracle, oracle.write(100, b"n"))
    assert now(oracle) == {each[:100] + b"n" + each[101:] for each in (ZEROS, OLD)}


def test_a_trim_forgets_whole_blocks_and_zeros_are_zeros_anywhere():
    oracle = Oracle(4 * 512 - 100, 512, OLD * 4)
    done(oracle, oracle.trim(1, 1023))
    assert (now(oracle, 0), now(oracle, 1), now(oracle, 2)) == ({OLD}, {ZEROS}, {OLD})
    done(oracle, oracle.zero(1, 2))
    assert now(oracle, 0) == {b"o\0\0" + OLD[3:]}
    done(oracle, oracle.trim(3 * 512, 412))
    assert now(oracle, 3) == {bytes(412)}


def test_comparing_names_the_blocks_and_their_values():
    oracle = make()
    done(oracle, oracle.write(0, OLD + NEW))
    assert oracle.compare(OLD + NEW + ZEROS * 2, crashed=False) == []
    assert oracle.compare(ZEROS + NEW + ZEROS * 2, crashed=True) == []
    [lost] = oracle.compare(ZEROS + NEW + ZEROS * 2, crashed=False)
    assert (lost.block, lost.found, lost.legal) == (0, ZEROS, (OLD,))
    [foreign] = oracle.compare(OLD + NEW + ZEROS + NEWER, crashed=True)
    assert (foreign.block, foreign.legal) == (3, (ZEROS,))
    assert "block 3 holds" in str(foreign)


def test_a_small_sector_tears_a_block_and_still_each_sector_must_be_legal():
    oracle = Oracle(1024, 1024, OLD * 2)
    oracle.write(0, NEW * 2)
    assert oracle.compare(OLD + NEW, crashed=True)
    assert not oracle.compare(OLD + NEW, crashed=True, sector=512)
    assert oracle.compare(OLD + NEWER, crashed=True, sector=512)


def test_what_was_cut_off_reads_as_zeros_when_it_comes_back():
    oracle = make()
    done(oracle, oracle.write(0, OLD * 4))
    oracle.resize(700)
    assert now(oracle, 1) == {OLD[:188]}
    oracle.resize(2048)
    assert oracle.compare(OLD + OLD[:188] + bytes(2048 - 700), crashed=False) == []
    assert crashed(oracle, 3) == {ZEROS}


def test_a_snapshot_holds_what_was_there_and_a_twin_goes_its_own_way():
    oracle = make()
    done(oracle, oracle.write(0, OLD))
    snapshot, twin = oracle.copy(), oracle.twin()
    done(oracle, oracle.write(0, NEW))
    oracle.end_flush(oracle.flush())
    assert crashed(snapshot) == {OLD}
    assert crashed(twin) == {ZEROS, OLD}


def test_after_a_crash_only_what_was_found_counts():
    oracle = make()
    done(oracle, oracle.write(0, OLD))
    oracle.restart(OLD + ZEROS * 3, durable=False)
    assert now(oracle) == {OLD}
    assert crashed(oracle) == {ZEROS, OLD}
    oracle.restart(ZEROS * 4)
    assert crashed(oracle) == {ZEROS}
