"""What type checkers have to refuse: one error in every line with a comment."""

from __future__ import annotations

import numpy as np

import fusestep as fs

w = np.zeros(3)
fs.AdamW(w, learning_rate=1e-3)  # wrong
fs.AdamW(w, 1e-3)  # wrong
fs.AdamW(w, lr="fast")  # wrong
fs.Adam(w, eps_mode="before")  # wrong
fs.SGD(w, nonfinite="ignore")  # wrong
fs.AdaBelief(w, betas=0.9)  # wrong
fs.Adam()  # wrong
fs.SGD(w, betas=(0.9, 0.99))  # wrong
fs.SGD(w, decoupled=True)  # wrong
fs.SGD(w, nesterov=1.0)  # wrong
fs.AdamW(w, decoupled_weight_decay=True)  # wrong
fs.Adam(w, clip_norm="1")  # wrong
opt = fs.AdamW(w, lr=1e-3)
opt.lr = "fast"  # wrong
opt.learning_rate = 1e-3  # wrong
opt.betas = 0.9  # wrong
opt.amsgrad = True  # wrong
opt.maximize = True  # wrong
opt.steps_applied = 3  # wrong
opt.nonfinite = "ignore"  # wrong
opt.groups[0].momentum = 0.9  # wrong
opt.groups[0].clip_norm = 0.9  # wrong
opt.groups[0].step(w)  # wrong
print(opt.step(w).loss)  # wrong
fs.checkpoint.save("run", step="3")  # wrong
fs.checkpoint.load("run", w)  # wrong
fs.Run("folder", optimizer=opt)  # wrong
fs.Run("folder", params=w, record={})  # wrong
fs.Run("folder", params=w).steps("all")  # wrong
fs.Record().plot(by="time")  # wrong
