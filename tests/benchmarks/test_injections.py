"""The benchmark of injections notices what runs, and a quick pass finds nothing."""

from benchmarks.injections import QUICK, injected, looked_at, strings

HOSTILE = ("<script>window.owned = 1</script>", "<iframe></iframe>", "<img src=x onerror=alert(1)>")


def test_the_strings_are_many_each_another_and_the_same_again():
    found = strings(300, 0)
    assert len(set(found)) == 300
    assert found == strings(300, 0) != strings(300, 1)


def test_a_page_that_escapes_nothing_is_noticed(tmp_path, visit):
    for number, word in enumerate(HOSTILE):
        page = tmp_path / f"{number}.html"
        page.write_text(f"<!doctype html><body>{word}")
        assert looked_at(visit, ("bare", page, None))


def test_a_quick_pass_of_injections(tmp_path, visit):
    wrong, pages = injected(strings(QUICK, 0), tmp_path, visit)
    assert wrong == []
    assert pages >= 5
