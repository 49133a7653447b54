"""An hour of a route in memory."""

from token_worker.monitor.history import STEP_SECONDS, STEPS, History, Sample

START = 1_800_000_000.0


def test_rates_are_those_of_the_last_half_minute() -> None:
    """Entries that came and went long ago do not count."""
    history = History()
    for second in range(0, 120, 5):
        history.add(Sample(START + second, 0, 1000 * second if second < 60 else 60_000 + 2 * second, second))
    come, go = history.rates()
    assert come == 2.0
    assert go == 1.0


def test_space_is_bounded() -> None:
    """A day of figures takes the space of an hour, and shows the last one."""
    history = History()
    for second in range(0, 86_400, 5):
        history.add(Sample(START + second, second, second, second))
    hour = history.hour()
    assert len(hour.waiting) == len(hour.come) == len(hour.go) == STEPS
    assert hour.waiting[-1] == 86_395
    assert hour.waiting[0] == 86_400 - 3600 + STEP_SECONDS - 5
    assert hour.end == START + 86_400


def test_outage_is_a_gap() -> None:
    """While nothing could be read there is no figure, and none is made up from those before and after."""
    history = History()
    history.add(Sample(START, 5, 10, 5))
    history.add(Sample(START + 10 * STEP_SECONDS, 7, 20, 13))
    waiting = history.hour().waiting
    assert waiting[-11] == 5
    assert waiting[-10:-1] == [None] * 9
    assert waiting[-1] == 7
    assert waiting[:-11] == [None] * (STEPS - 11)


def test_highest_figure_of_a_step_is_shown() -> None:
    """A queue that was long for a moment is not hidden by the moment after."""
    history = History()
    for second, waiting in enumerate((1, 900, 2)):
        history.add(Sample(START + second, waiting, 0, 0))
    assert history.hour().waiting[-1] == 900


def test_counters_that_begin_anew_make_no_rate() -> None:
    """After the stream was deleted, rates are unknown, and then right again; they are never negative or huge."""
    history = History()
    history.add(Sample(START, 0, 1_000_000, 1_000_000))
    history.add(Sample(START + 5, 0, 10, 10))
    assert history.rates() == (None, None)
    history.add(Sample(START + 10, 0, 20, 15))
    assert history.rates() == (2.0, 1.0)


def test_figures_found_in_two_ways_are_not_compared() -> None:
    """If the number of answered requests is found in another way, the rate begins anew."""
    history = History()
    history.add(Sample(START, 0, 100, 100, is_counted=True))
    history.add(Sample(START + 5, 0, 110, 50_000, is_counted=False))
    assert history.rates() == (None, None)


def test_unknown_figures_are_unknown_rates() -> None:
    """A route whose counters are unknown has no rate rather than 0."""
    history = History()
    history.add(Sample(START, 3, 1, None))
    history.add(Sample(START + 5, 3, 6, None))
    assert history.rates() == (1.0, None)


def test_clock_that_was_set_back_begins_a_new_hour() -> None:
    """Figures of a future that never was are dropped."""
    history = History()
    history.add(Sample(START + 3600, 9, 9, 9))
    history.add(Sample(START, 1, 10, 10))
    waiting = history.hour().waiting
    assert (waiting[-1], waiting[-2]) == (1, None)
