"""Quantities in words."""


def hertz(value: float, digits: int = 2) -> str:
    """A frequency.

    >>> hertz(0.9705), hertz(824.07), hertz(19288.3), hertz(19288.3, digits=3)
    ('0.97 Hz', '820 Hz', '19 kHz', '19.3 kHz')
    """
    return _rounded(value, digits, "Hz", "kHz")


def seconds(milliseconds: float, digits: int = 2) -> str:
    """A time.

    >>> seconds(1137.6), seconds(506.29), seconds(0.0561), seconds(999.4, digits=3)
    ('1.1 s', '510 ms', '0.056 ms', '999 ms')
    """
    return _rounded(milliseconds, digits, "ms", "s")


def _rounded(value: float, digits: int, unit: str, thousand: str) -> str:
    short = float(f"{value:.{digits}g}")
    return f"{short:g} {unit}" if short < 1000 else f"{short / 1000:g} {thousand}"
