"""The parts of `examine`, in the order in which they run."""

from pyrovae.evaluation.parts.calibration import Calibration
from pyrovae.evaluation.parts.diagnosis import Diagnosis
from pyrovae.evaluation.parts.information import Information
from pyrovae.evaluation.parts.interval import Interval
from pyrovae.evaluation.parts.law import Law
from pyrovae.evaluation.parts.part import Part
from pyrovae.evaluation.parts.quality import Quality

PARTS: dict[str, Part] = {
    part.name: part for part in (Diagnosis(), Law(), Information(), Calibration(), Interval(), Quality())
}
