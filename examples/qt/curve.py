"""The curve of one metric over the steps of a run, as it grows.

Owns how points become a drawing; reads them from a `MetricsModel`.
"""

from __future__ import annotations

import math

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QLinearGradient, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QWidget

from examples.qt.look import ACCENT, LINE, QUIET, SURFACE, TEXT
from trainshed_client.qt import MetricsModel, TableRole
from trainshed_client.rendering.progress import shown_metric

LEFT, RIGHT, TOP, BOTTOM = 52, 16, 38, 26


class Curve(QWidget):
    """Shows the metric that matters most of a model: ``reward`` before anything else."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model: MetricsModel | None = None
        self._labels: dict[str, str] = {}
        self.setMinimumHeight(170)

    def show_model(self, model: MetricsModel, labels: dict[str, str]) -> None:
        """Draw this one from now on."""
        self._model, self._labels = model, labels
        model.applied.connect(lambda: self.update())
        self.update()

    def sizeHint(self) -> QSize:
        """Qt's."""
        return QSize(520, 220)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Qt's."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(LINE))
        painter.setBrush(SURFACE)
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6)
        name = None if self._model is None else shown_metric(self._model.metric_names, None, self._labels)
        points = [] if name is None else self._points(name)
        area = QRectF(self.rect()).adjusted(LEFT, TOP, -RIGHT, -BOTTOM)
        painter.setPen(TEXT)
        painter.drawText(QRectF(14, 6, area.width(), 20), Qt.AlignmentFlag.AlignVCenter, name or "Metrics")
        if len(points) < 2:
            painter.setPen(QUIET)
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "no steps yet")
            return
        self._draw(painter, area, points)

    def _points(self, name: str) -> list[tuple[float, float]]:
        model = self._model
        assert model is not None
        records = [model.index(row, 0).data(TableRole.RECORD) for row in range(model.rowCount())]
        return sorted(
            (point.step, point.metrics[name])
            for point in records
            if point.step is not None and math.isfinite(point.metrics.get(name, math.nan))
        )

    def _draw(self, painter: QPainter, area: QRectF, points: list[tuple[float, float]]) -> None:
        first, last = points[0][0], points[-1][0]
        low, high = min(value for _, value in points), max(value for _, value in points)
        low, high = (low - 1, high + 1) if low == high else (low, high)
        painter.setPen(QPen(LINE))
        for part in range(4):
            y = area.bottom() - area.height() * part / 3
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
        painter.setPen(QUIET)
        for part in range(4):
            y = area.bottom() - area.height() * part / 3
            text = f"{low + (high - low) * part / 3:.4g}"
            painter.drawText(QRectF(4, y - 9, LEFT - 12, 18), Qt.AlignmentFlag.AlignRight, text)
        below = QRectF(area.left(), area.bottom() + 4, area.width(), 18)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, f"step {first:,.0f}")
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, f"{last:,.0f}")
        drawn = [
            QPointF(
                area.left() + area.width() * (step - first) / max(1e-9, last - first),
                area.bottom() - area.height() * (value - low) / (high - low),
            )
            for step, value in points
        ]
        ends = [QPointF(drawn[0].x(), area.bottom()), QPointF(drawn[-1].x(), area.bottom())]
        under = QPolygonF([ends[0], *drawn, ends[1]])
        shade = QLinearGradient(area.topLeft(), area.bottomLeft())
        top = QColor(ACCENT)
        top.setAlpha(60)
        shade.setColorAt(0, top)
        shade.setColorAt(1, Qt.GlobalColor.transparent)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(shade)
        painter.drawPolygon(under)
        painter.setPen(QPen(ACCENT, 2))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPolyline(QPolygonF(drawn))
        painter.setBrush(ACCENT)
        painter.drawEllipse(drawn[-1], 3.5, 3.5)
        painter.setPen(TEXT)
        latest = QRectF(area.left(), 6, area.width(), 20)
        painter.drawText(
            latest, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, f"{points[-1][1]:.4g}"
        )
