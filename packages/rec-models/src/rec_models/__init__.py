"""SASRec and BERT4Rec with eight losses over large catalogues, trained with Lightning Fabric.

The settings need no torch: ``from rec_models.config import ModelSettings, LossSettings, TrainingSettings``. Training
is `rec_models.training.loop.fit`; using a trained model is `rec_models.inference.load` and `encode`.
"""
